// Where a text may be cut without a token that reaches across.
#pragma once
#include <cstdint>
#include <string_view>
#include <unordered_set>

#include "runtime/tokenizer/utf8.h"

namespace longhaul {

/// Pairs of characters that some token holds side by side.
class Joints {
 public:
  void add(char32_t left, char32_t right) { pairs_.insert(key(left, right)); }
  /// Every pair within a token.
  void add(std::string_view token) {
    char32_t previous = 0;
    for (std::size_t at = 0; at < token.size();) {
      const std::string_view character = character_at(token, at);
      const char32_t code = utf8_code_point(character);
      if (at > 0) add(previous, code);
      previous = code;
      at += character.size();
    }
  }
  bool contains(char32_t left, char32_t right) const { return pairs_.contains(key(left, right)); }

 private:
  static std::uint64_t key(char32_t left, char32_t right) { return std::uint64_t{left} << 32 | right; }
  std::unordered_set<std::uint64_t> pairs_;
};

/// Gives `text` in parts, cut between two characters wherever not `together(left, right)`.
template <class Together, class Part>
void cut_text(std::string_view text, const Together& together, const Part& part) {
  std::size_t begin = 0;
  char32_t previous = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view character = character_at(text, at);
    const char32_t code = utf8_code_point(character);
    if (at > 0 && !together(previous, code)) {
      part(text.substr(begin, at - begin));
      begin = at;
    }
    previous = code;
    at += character.size();
  }
  if (begin < text.size()) part(text.substr(begin));
}

}  // namespace longhaul
