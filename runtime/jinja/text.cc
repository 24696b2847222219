#include "runtime/jinja/text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>

#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul::jinja {
namespace {

constexpr char kGuard = Tokenizer::kSpecialGuard;

bool guarded(std::string_view text) { return text.find(kGuard) != std::string_view::npos; }

// The code point at a place that is no guard's.
char32_t code_at(std::string_view text, std::size_t at) { return utf8_code_point(character_at(text, at)); }

// The character at `at`, or one guard byte.
std::size_t size_at(std::string_view text, std::size_t at) {
  return text[at] == kGuard ? 1 : character_at(text, at).size();
}

std::size_t start_of_last(std::string_view text, std::size_t end) {
  return text[end - 1] == kGuard ? end - 1 : end - character_before(text, end).size();
}

// How far `part` reaches in `text` from `at`, guards left out.
std::optional<std::size_t> match_at(std::string_view text, std::size_t at, std::string_view part) {
  for (const char c : part) {
    while (at < text.size() && text[at] == kGuard) ++at;
    if (at == text.size() || text[at] != c) return std::nullopt;
    ++at;
  }
  return at;
}

using Category = utf8proc_category_t;

Category category(char32_t code) { return utf8proc_category(static_cast<utf8proc_int32_t>(code)); }
bool is_upper(char32_t code) { return utf8proc_isupper(static_cast<utf8proc_int32_t>(code)) != 0; }
bool is_lower(char32_t code) { return utf8proc_islower(static_cast<utf8proc_int32_t>(code)) != 0; }
bool is_letter(char32_t code) {
  const Category c = category(code);
  return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

// Characters whose case is more than another character (Unicode's SpecialCasing).
bool special_upper(char32_t c) {
  return c == 0xdf || c == 0x149 || c == 0x1f0 || c == 0x390 || c == 0x3b0 || c == 0x587 ||
         (c >= 0x1e96 && c <= 0x1e9e) || (c >= 0x1f50 && c <= 0x1fff) || (c >= 0xfb00 && c <= 0xfb17) || c == 0x345;
}
bool special_lower(char32_t c) { return c == 0x130 || c == 0x3a3; }

}  // namespace

std::int64_t text_length(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80 && c != kGuard; });
}

std::string unguarded(std::string_view text) {
  std::string out(text);
  std::erase(out, kGuard);
  return out;
}

bool text_equal(std::string_view a, std::string_view b) {
  return !guarded(a) && !guarded(b) ? a == b : unguarded(a) == unguarded(b);
}

int text_compare(std::string_view a, std::string_view b) {
  return !guarded(a) && !guarded(b) ? a.compare(b) : unguarded(a).compare(unguarded(b));
}

TextFinder::TextFinder(std::string_view text, std::string_view part, Direction direction)
    : part_(unguarded(part)), bare_(text), direction_(direction) {
  for (std::size_t at = text.find(kGuard); at != std::string_view::npos; at = text.find(kGuard, at + 1))
    guards_.push_back(at);
  if (guards_.empty() && direction == Direction::forward) return;
  own_ = unguarded(text);
  if (direction == Direction::backward) {
    std::reverse(own_.begin(), own_.end());
    std::reverse(part_.begin(), part_.end());
  }
  bare_ = own_;
}

// Places without guards counted, and back: a character's, not that of the guards before it.
std::size_t TextFinder::bare(std::size_t at) const {
  return at - static_cast<std::size_t>(std::ranges::lower_bound(guards_, at) - guards_.begin());
}
std::size_t TextFinder::in_text(std::size_t at) const {
  std::size_t before = 0, after = guards_.size();  // so many guards stand before the character
  while (before < after) {
    const std::size_t middle = (before + after) / 2;
    if (guards_[middle] - middle <= at) before = middle + 1;
    else after = middle;
  }
  return at + before;
}

std::optional<TextRange> TextFinder::next(std::size_t at) const {
  if (part_.empty()) return TextRange{at, at};
  const bool forward = direction_ == Direction::forward;
  const std::size_t from = forward ? bare(at) : bare_.size() - bare(at);
  // Linear whatever the two are, as find() is not.
  const void* hit = ::memmem(bare_.data() + from, bare_.size() - from, part_.data(), part_.size());
  if (hit == nullptr) return std::nullopt;
  const auto found = static_cast<std::size_t>(static_cast<const char*>(hit) - bare_.data());
  const std::size_t begin = forward ? found : bare_.size() - found - part_.size();
  return TextRange{in_text(begin), in_text(begin + part_.size() - 1) + 1};
}

std::optional<TextRange> find_text(std::string_view text, std::string_view part) {
  return TextFinder(text, part).next(0);
}
std::optional<TextRange> find_last_text(std::string_view text, std::string_view part) {
  return TextFinder(text, part, TextFinder::Direction::backward).next(text.size());
}

std::optional<std::size_t> after_prefix(std::string_view text, std::string_view part) {
  const std::string bare = unguarded(part);
  return match_at(text, 0, bare);
}

std::optional<std::size_t> before_suffix(std::string_view text, std::string_view part) {
  const std::string bare = unguarded(part);
  std::size_t at = text.size();
  for (auto c = bare.rbegin(); c != bare.rend(); ++c) {
    while (at > 0 && text[at - 1] == kGuard) --at;
    if (at == 0 || text[at - 1] != *c) return std::nullopt;
    --at;
  }
  return at;
}

bool is_python_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0d) || (code >= 0x1c && code <= 0x20) || code == 0x85 || code == 0xa0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f ||
         code == 0x205f || code == 0x3000;
}

std::string_view strip_text(std::string_view text, std::optional<std::string_view> characters, bool left, bool right) {
  std::vector<char32_t> codes;
  if (characters)
    for (const std::string_view c : characters_of(*characters)) codes.push_back(code_at(c, 0));
  std::ranges::sort(codes);
  const auto goes = [&](std::size_t at) {
    if (text[at] == kGuard) return true;
    const char32_t code = code_at(text, at);
    return characters ? std::ranges::binary_search(codes, code) : is_python_space(code);
  };
  // A guard byte goes with the characters around it, and stays where none goes.
  std::size_t begin = 0, end = text.size();
  for (std::size_t at = 0; left && at < text.size() && goes(at);) {
    const bool guard = text[at] == kGuard;
    at += size_at(text, at);
    if (!guard || at == text.size()) begin = at;
  }
  for (std::size_t at = end; right && at > begin;) {
    const std::size_t start = start_of_last(text, at);
    if (!goes(start)) break;
    if (text[start] != kGuard || start == begin) end = start;
    at = start;
  }
  return text.substr(begin, end - begin);
}

std::vector<std::string_view> split_text(std::string_view text, std::optional<std::string_view> separator,
                                         std::int64_t most, bool from_right) {
  std::vector<std::string_view> parts;
  const auto more = [&] { return most < 0 || static_cast<std::int64_t>(parts.size()) < most; };
  if (separator && !from_right) {
    const TextFinder finder(text, *separator);
    std::size_t at = 0;
    while (more()) {
      const auto found = finder.next(at);
      if (!found) break;
      parts.push_back(text.substr(at, found->begin - at));
      at = found->end;
    }
    parts.push_back(text.substr(at));
    return parts;
  }
  if (separator) {
    const TextFinder finder(text, *separator, TextFinder::Direction::backward);
    std::size_t end = text.size();
    while (more()) {
      const auto found = finder.next(end);
      if (!found) break;
      parts.push_back(text.substr(found->end, end - found->end));
      end = found->begin;
    }
    parts.push_back(text.substr(0, end));
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  const auto blank = [&](std::size_t at) { return text[at] != kGuard && is_python_space(code_at(text, at)); };
  if (from_right) {
    text = strip_text(text, {}, false, true);
    while (!text.empty()) {
      std::size_t begin = text.size();
      if (more()) {
        while (begin > 0 && !blank(start_of_last(text, begin))) begin = start_of_last(text, begin);
      } else {
        text = strip_text(text, {}, true, false);
        begin = 0;
      }
      if (begin < text.size()) parts.push_back(text.substr(begin));
      text = strip_text(text.substr(0, begin), {}, false, true);
    }
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  text = strip_text(text, {}, true, false);
  while (!text.empty()) {
    std::size_t end = 0;
    if (more()) {
      while (end < text.size() && !blank(end)) end += size_at(text, end);
    } else {
      text = strip_text(text, {}, false, true);
      end = text.size();
    }
    if (end > 0) parts.push_back(text.substr(0, end));
    text = strip_text(text.substr(end), {}, true, false);
  }
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = size_at(text, at);
    const char32_t code = text[at] == kGuard ? U'a' : code_at(text, at);
    const std::size_t here = at;
    at += size;
    if (!((code >= 0x0a && code <= 0x0d) || (code >= 0x1c && code <= 0x1e) || code == 0x85 || code == 0x2028 ||
          code == 0x2029))
      continue;
    if (code == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : here) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string replace_text(std::string_view text, std::string_view from, std::string_view to, std::int64_t most) {
  std::string out;
  if (unguarded(from).empty()) {  // Python puts `to` around every character
    const auto characters = characters_of(text);
    std::int64_t done = 0;
    for (std::size_t i = 0; i <= characters.size(); ++i) {
      if (most < 0 || done++ < most) out += to;
      if (i < characters.size()) out += characters[i];
    }
    return out;
  }
  const TextFinder finder(text, from);
  std::size_t at = 0;
  for (std::int64_t done = 0; most < 0 || done < most; ++done) {
    const auto found = finder.next(at);
    if (!found) break;
    out += text.substr(at, found->begin - at);
    out += to;
    at = found->end;
  }
  return out += text.substr(at);
}

std::vector<std::string_view> characters_of(std::string_view text) {
  std::vector<std::string_view> characters;
  std::size_t at = 0;
  while (at < text.size() && text[at] == kGuard) ++at;
  for (std::size_t begin = 0; at < text.size(); begin = at) {
    at += size_at(text, at);
    while (at < text.size() && text[at] == kGuard) ++at;
    characters.push_back(text.substr(begin == 0 ? 0 : begin, at - begin));
  }
  return characters;
}

std::string with_case(std::string_view text, Case which) {
  std::string out;
  bool inside = false;  // after the first character, or after a letter
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = size_at(text, at);
    const std::string_view character = text.substr(at, size);
    at += size;
    if (character[0] == kGuard) {
      out += kGuard;
      continue;
    }
    const char32_t code = utf8_code_point(character);
    bool up = which == Case::upper;
    if (which == Case::swapped) up = is_lower(code);
    if (which == Case::capitalized || which == Case::title) up = !inside;
    inside = which == Case::title ? is_letter(code) : true;
    if (up ? special_upper(code) : special_lower(code)) throw std::string(character);
    const auto number = static_cast<utf8proc_int32_t>(code);
    const bool titled = up && (which == Case::capitalized || which == Case::title);
    const utf8proc_int32_t mapped = titled ? utf8proc_totitle(number)
                                    : up   ? utf8proc_toupper(number)
                                           : utf8proc_tolower(number);
    append_utf8(out, static_cast<char32_t>(mapped));
  }
  return out;
}

bool is_text(std::string_view text, TextClass which) {
  bool some = false, cased = false, previous_cased = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = size_at(text, at);
    const char32_t code = text[at] == kGuard ? 0 : code_at(text, at);
    const bool guard = text[at] == kGuard;
    at += size;
    if (guard) continue;
    some = true;
    const Category c = category(code);
    const bool upper = is_upper(code), lower = is_lower(code);
    switch (which) {
      case TextClass::upper:
        if (lower) return false;
        cased |= upper;
        break;
      case TextClass::lower:
        if (upper) return false;
        cased |= lower;
        break;
      case TextClass::title:
        if ((upper && previous_cased) || (lower && !previous_cased)) return false;
        cased |= upper || lower;
        previous_cased = upper || lower;
        break;
      case TextClass::digit:
        if (c != UTF8PROC_CATEGORY_ND) return false;
        break;
      case TextClass::alpha:
        if (!is_letter(code)) return false;
        break;
      case TextClass::alphanumeric:
        if (!is_letter(code) && c != UTF8PROC_CATEGORY_ND && c != UTF8PROC_CATEGORY_NO && c != UTF8PROC_CATEGORY_NL)
          return false;
        break;
      case TextClass::space:
        if (!is_python_space(code)) return false;
        break;
      case TextClass::ascii:
        if (code >= 0x80) return false;
    }
  }
  if (which == TextClass::ascii) return true;
  if (which == TextClass::upper || which == TextClass::lower || which == TextClass::title) return cased;
  return some;
}

}  // namespace longhaul::jinja
