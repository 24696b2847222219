// The tokens that are found in the text before anything else looks at it: control tokens and a few whole words.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/tokenizer/normalizer.h"
#include "runtime/tokenizer/regex.h"

namespace longhaul {

struct AddedToken {
  std::int32_t id;
  std::string content;
  bool single_word = false;             // only where no word character stands beside it
  bool lstrip = false, rstrip = false;  // takes the white space beside it
  bool normalized = false;              // looked for after the others, in what is left
  bool special = false;
};

class AddedTokens {
 public:
  /// The normalizer is that of the texts that are split; it is used here only.
  AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer);

  /// Calls `plain` for each stretch without added tokens, normalized, and `token` for each of them, in order.
  void split(std::string_view text, const Normalizer& normalizer, const std::function<void(std::string_view)>& plain,
             const std::function<void(std::int32_t)>& token) const;
  /// See Tokenizer::guard. The normalizer is the same.
  std::string guard(std::string_view text, const Normalizer& normalizer) const;

 private:
  // The texts of a set of tokens as a tree of bytes.
  struct Tree {
    void add(std::string_view text, std::size_t token);
    // The token with the longest text that `rest` begins with.
    std::optional<std::size_t> longest(std::string_view rest) const;
    bool empty() const { return token_at.size() == 1; }
    std::array<bool, 256> first{};
    std::unordered_map<std::uint64_t, std::uint32_t> edges;  // node << 8 | byte → node; 0 is the root
    std::vector<std::int64_t> token_at{-1};                  // node → token that ends there
  };
  // For one text; each made when it is needed.
  struct Matchers {
    std::optional<Regex::Matcher> space, word;
  };
  void split_by(const Tree& tree, std::string_view text, Matchers& matchers,
                const std::function<void(std::string_view)>& plain,
                const std::function<void(std::int32_t)>& token) const;
  bool stands_alone(std::string_view text, std::size_t begin, std::size_t end, Matchers& matchers) const;
  bool spells_guarded(std::string_view text, const Normalizer& normalizer) const;

  std::vector<AddedToken> tokens_;  // their contents normalized, where they are looked for in normalized text
  Tree raw_, normalized_, guarded_;
  Tree normalized_guarded_;    // those of normalized_ that guarded_ has, too
  std::optional<Regex> word_;  // compiled when a token needs it
  Regex space_;
};

}  // namespace longhaul
