#include "runtime/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>

#include "kernels/base/error.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
namespace {

constexpr char kGuard = Tokenizer::kSpecialGuard;

// A character that no normal form changes, whatever stands beside it.
bool always_normal(char32_t code) { return code < 0x80; }

int combining_class(utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; }

// utf8proc decomposes and composes; it also sorts marks, but in quadratic time, so they come to it in order.
void append_normal_form(std::string& out, std::string_view text, bool compatible, bool compose) {
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view character = character_at(text, at);
    at += character.size();
    utf8proc_int32_t parts[32];  // the longest decomposition has 18 characters
    int last_class = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(utf8_code_point(character)), parts, 32,
                                               options, &last_class);
    codes.insert(codes.end(), parts, parts + count);
  }
  for (auto begin = codes.begin(); begin != codes.end();) {
    begin = std::find_if(begin, codes.end(), [](auto code) { return combining_class(code) != 0; });
    const auto end = std::find_if(begin, codes.end(), [](auto code) { return combining_class(code) == 0; });
    std::stable_sort(begin, end, [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
  auto size = static_cast<utf8proc_ssize_t>(codes.size());
  if (compose)
    size = utf8proc_normalize_utf32(codes.data(), size,
                                    static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  for (utf8proc_ssize_t i = 0; i < size; ++i) append_utf8(out, static_cast<char32_t>(codes[i]));
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  for (std::size_t at = 0;;) {
    const std::size_t found = text.find(from, at);
    out += text.substr(at, found == std::string_view::npos ? found : found - at);
    if (found == std::string_view::npos) return out;
    out += to;
    at = found + from.size();
  }
}

std::string replace_matches(std::string_view text, const Regex& pattern, std::string_view to) {
  Regex::Matcher matcher(pattern);
  std::string out;
  std::size_t done = 0;
  for (std::size_t from = 0; from <= text.size();) {
    const auto match = matcher.find(text, from);
    if (!match) break;
    out += text.substr(done, match->begin - done);
    out += to;
    done = match->end;
    from =
        match->end > match->begin ? match->end : match->end + std::max<std::size_t>(1, character_at(text, done).size());
  }
  return out += text.substr(done);
}

// `change` for each stretch between guard bytes, which no character may cross.
template <class Change>
std::string between_guards(std::string_view text, const Change& change) {
  std::string out;
  for (;;) {
    const std::size_t guard = text.find(kGuard);
    out += change(text.substr(0, guard));
    if (guard == std::string_view::npos) return out;
    out += kGuard;
    text.remove_prefix(guard + 1);
  }
}

std::string strip(std::string_view text, bool left, bool right) {
  static const Regex blank(Regex::Kind::pattern, "\\s", "Strip");
  Regex::Matcher space(blank);
  std::size_t begin = 0, end = text.size();
  while (left && begin < end && (text[begin] == kGuard || space.in(character_at(text, begin))))
    begin += character_at(text, begin).size();
  while (right && begin < end) {
    const std::string_view last = text[end - 1] == kGuard ? text.substr(end - 1, 1) : character_before(text, end);
    if (last[0] != kGuard && !space.in(last)) break;
    end -= last.size();
  }
  return std::string(text.substr(begin, end - begin));
}

}  // namespace

std::string unicode_normal_form(std::string_view text, bool compatible, bool compose) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    // ASCII is its own normal form; its last character may take the marks that follow.
    const auto end = std::find_if(text.begin(), text.end(), [](char c) { return !always_normal(c & 0xff); });
    auto plain = static_cast<std::size_t>(end - text.begin());
    if (end != text.end() && plain > 0) --plain;
    out += text.substr(0, plain);
    text.remove_prefix(plain);
    // Up to two ASCII characters in a row, of which the second begins anew.
    std::size_t size = 0;
    while (size < text.size() &&
           !(size > 1 && always_normal(text[size] & 0xff) && always_normal(text[size - 1] & 0xff)))
      ++size;
    append_normal_form(out, text.substr(0, size), compatible, compose);
    text.remove_prefix(size);
  }
  return out;
}

Normalizer::Normalizer(const JsonRef& json) {
  if (!json.is_null()) add(json);
}

void Normalizer::add(const JsonRef& json) {
  const std::string type = json["type"].string();
  if (type == "Sequence") {
    json.only({"type", "normalizers"});
    const JsonRef list = json["normalizers"];
    for (std::size_t i = 0; i < list.array_size(); ++i) add(list.element(i));
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    json.only({"type"});
    steps_.push_back({.kind = Step::unicode, .compatible = type[2] == 'K', .compose = type.back() == 'C'});
  } else if (type == "Prepend") {
    json.only({"type", "prepend"});
    steps_.push_back({.kind = Step::prepend, .text = json["prepend"].string()});
  } else if (type == "Replace") {
    json.only({"type", "pattern", "content"});
    const JsonRef pattern = json["pattern"];
    pattern.only({"Regex", "String"});
    const bool literal = pattern["Regex"].is_null();
    Step step{.kind = literal ? Step::replace : Step::replace_pattern,
              .text = pattern[literal ? "String" : "Regex"].string(),
              .with = json["content"].string()};
    if (step.text.empty()) pattern.refuse("must not be empty");
    if (!literal) step.pattern.emplace(Regex::Kind::pattern, step.text, pattern.where());
    steps_.push_back(std::move(step));
  } else if (type == "Strip") {
    json.only({"type", "strip_left", "strip_right"});
    steps_.push_back({.kind = Step::strip,
                      .left = json["strip_left"].boolean_or(false),
                      .right = json["strip_right"].boolean_or(false)});
  } else {
    json.refuse(fmt::format(
        "normalizer {} is not supported (NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip and Sequence are)", type));
  }
}

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::unicode:
        out = between_guards(
            out, [&](std::string_view part) { return unicode_normal_form(part, step.compatible, step.compose); });
        break;
      case Step::prepend:
        if (!out.empty()) out.insert(0, step.text);
        break;
      case Step::replace:
        out = replace_all(out, step.text, step.with);
        break;
      case Step::replace_pattern:
        out =
            between_guards(out, [&](std::string_view part) { return replace_matches(part, *step.pattern, step.with); });
        break;
      case Step::strip:
        out = strip(out, step.left, step.right);
    }
  }
  return out;
}

}  // namespace longhaul
