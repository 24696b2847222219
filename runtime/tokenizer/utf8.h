// UTF-8, one character at a time: whole ones, ones that can never become whole, and one cut off at the end.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace longhaul {

struct Utf8Step {
  enum Kind { whole, broken, cut };
  Kind kind;
  std::size_t length;  // whole: of the character; broken: the bytes that one U+FFFD stands for; cut: all that is left
};

/// What `rest`, which is not empty, begins with.
Utf8Step utf8_step(std::string_view rest);
/// The code point of a whole character.
char32_t utf8_code_point(std::string_view character);
void append_utf8(std::string& out, char32_t code_point);
/// Every broken part becomes U+FFFD (as Unicode recommends and Rust does: one for each maximal valid prefix).
std::string replace_invalid_utf8(std::string_view text);
/// `text` on one line and without a terminal's commands: control characters as \n, \x1b, and U+FFFD for what is broken.
std::string printable(std::string_view text);
/// `text` up to a character that is cut off at its end.
std::string_view without_cut_character(std::string_view text);
/// The characters before and after a place in valid text; empty at the ends.
std::string_view character_before(std::string_view text, std::size_t place);
std::string_view character_at(std::string_view text, std::size_t place);

}  // namespace longhaul
