// Tokens' spellings to text: what the decoder of tokenizer.json says, piece by piece.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/tokenizer/tokenizer_json.h"

namespace longhaul {

class TokenDecoder {
 public:
  /// How the tokens of one text become text; the state of one decoding.
  class Joiner {
   public:
    explicit Joiner(const TokenDecoder& decoder) : decoder_(decoder), to_strip_(decoder.strip_start_) {}
    struct Piece {
      std::string_view text;              // of the token
      std::string_view first;             // of the token where it is the first one
      std::optional<unsigned char> byte;  // a token that is one byte (byte fallback)
    };
    /// Appends what is certain now.
    void push(const Piece& piece, std::string& out);
    /// Appends the rest.
    void finish(std::string& out);

   private:
    void put(std::string_view text, std::string& out);
    const TokenDecoder& decoder_;
    std::size_t to_strip_;
    bool first_ = true;
    std::string bytes_;  // a run of byte tokens: together they are characters, or each is U+FFFD
  };

  /// Throws UserError{bad_model} naming what is not supported.
  explicit TokenDecoder(const JsonRef& json);

  bool byte_level() const { return byte_level_; }
  /// What a token is in a text, and what it is as the first one.
  std::string text_of(std::string_view token, bool first) const;
  /// The byte of "<0x0A>", where the decoder falls back to bytes.
  std::optional<unsigned char> byte_of(std::string_view token) const;

 private:
  void add(const JsonRef& json);
  void add_strip(const JsonRef& json);

  bool byte_level_ = false, byte_fallback_ = false, fused_ = false, drops_first_space_ = false;
  std::vector<std::pair<std::string, std::string>> replacements_;
  std::string metaspace_;  // empty: none
  std::string stripped_;   // the character that Strip takes away
  std::size_t strip_start_ = 0;
};

/// The byte that "<0x0A>" spells.
std::optional<unsigned char> byte_of_spelling(std::string_view token);

}  // namespace longhaul
