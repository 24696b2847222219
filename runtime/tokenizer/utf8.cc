#include "runtime/tokenizer/utf8.h"

#include <fmt/format.h>

#include <cstring>

#include "runtime/tokenizer/tokenizer.h"

namespace longhaul {

Utf8Step utf8_step(std::string_view rest) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(rest[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {Utf8Step::whole, 1};
  if (lead < 0xc2 || lead > 0xf4) return {Utf8Step::broken, 1};
  const std::size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte's range shuts out overlong forms, surrogates and what lies past U+10FFFF.
  const unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == rest.size()) return {Utf8Step::cut, i};
    if (byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xbf)) return {Utf8Step::broken, i};
  }
  return {Utf8Step::whole, length};
}

char32_t utf8_code_point(std::string_view character) {
  const auto lead = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return lead;
  char32_t code = lead & (0x7f >> character.size());
  for (const char c : character.substr(1)) code = code << 6 | (static_cast<unsigned char>(c) & 0x3f);
  return code;
}

void append_utf8(std::string& out, char32_t code) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  const auto tail = [&](int shift) { put(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) return put(0xc0 | code >> 6), tail(0);
  if (code < 0x10000) return put(0xe0 | code >> 12), tail(6), tail(0);
  put(0xf0 | code >> 18), tail(12), tail(6), tail(0);
}

std::size_t find_invalid_utf8(std::string_view text) {
  constexpr std::uint64_t kHighBits = 0x8080808080808080u;
  for (std::size_t at = 0; at < text.size();) {
    std::uint64_t word;  // books are mostly ASCII: eight bytes at a time
    if (at + sizeof word <= text.size() && (std::memcpy(&word, text.data() + at, sizeof word), !(word & kHighBits))) {
      at += sizeof word;
      continue;
    }
    const Utf8Step step = utf8_step(text.substr(at));
    if (step.kind != Utf8Step::whole) return at;
    at += step.length;
  }
  return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t bad = find_invalid_utf8(text);
    out += text.substr(0, bad);
    if (bad == std::string_view::npos) break;
    text.remove_prefix(bad);
    text.remove_prefix(utf8_step(text).length);
    out += "\xef\xbf\xbd";
  }
  return out;
}

std::string printable(std::string_view text) {
  const std::string valid = replace_invalid_utf8(text);
  std::string out;
  for (std::size_t at = 0; at < valid.size();) {
    const std::string_view character = character_at(valid, at);
    const char32_t code = utf8_code_point(character);
    if (code == '\n') out += "\\n";
    else if (code < 0x20 || (code >= 0x7f && code < 0xa0))
      out += fmt::format("\\x{:02x}", static_cast<std::uint32_t>(code));
    else out += character;
    at += character.size();
  }
  return out;
}

std::string_view without_cut_character(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const Utf8Step step = utf8_step(text.substr(text.size() - back));
    if (step.kind == Utf8Step::cut) return text.substr(0, text.size() - back);
    if (step.kind == Utf8Step::whole) break;
  }
  return text;
}

std::string_view character_before(std::string_view text, std::size_t place) {
  std::size_t start = place;
  while (start > 0 && (static_cast<unsigned char>(text[--start]) & 0xc0) == 0x80) {
  }
  return text.substr(start, place - start);
}

std::string_view character_at(std::string_view text, std::size_t place) {
  const std::string_view rest = text.substr(place);
  return rest.empty() ? rest : rest.substr(0, utf8_step(rest).length);
}

}  // namespace longhaul
