#include "runtime/overflow.h"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace longhaul {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";

bool in_character(const std::string& text, std::size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80;
}

/// The end of a word at or shortly before `at`, else the end of a character.
std::size_t break_before(const std::string& text, std::size_t at, std::size_t least) {
  constexpr std::size_t kLook = 200;
  if (at >= text.size()) return text.size();
  const std::size_t blank = text.find_last_of(kBlanks, at);
  if (blank != std::string::npos && blank > least && blank + kLook > at) return blank;
  while (at > least && in_character(text, at)) --at;
  return at;
}

/// The beginning of a word at or shortly behind `at`, else the beginning of a character.
std::size_t break_behind(const std::string& text, std::size_t at) {
  constexpr std::size_t kLook = 200;
  const std::size_t blank = text.find_first_of(kBlanks, at);
  if (at > 0 && blank != std::string::npos && blank < at + kLook) return blank + 1;
  while (in_character(text, at)) ++at;
  return at;
}

std::string cut(const std::string& text, Overflow how, std::size_t bytes) {
  const std::string mark(kCutMark);
  if (how == Overflow::truncate_left) return mark + "\n\n" + text.substr(break_behind(text, text.size() - bytes));
  const std::string head = text.substr(0, break_before(text, bytes / 2, 0));
  return head + "\n\n" + mark + "\n\n" + text.substr(break_behind(text, text.size() - bytes / 2));
}

}  // namespace

std::string cut_to_fit(const std::string& text, Overflow how, std::int64_t limit, const PromptTokens& tokens) {
  std::string best = cut(text, how, 0);
  const std::int64_t least = tokens(best), all = tokens(text);
  if (least > limit) return "";
  // Tokens are nearly linear in bytes: the line between what fits and what does not leads to the place in a few steps.
  double fits = 0, fits_tokens = static_cast<double>(least);
  double over = static_cast<double>(text.size()), over_tokens = static_cast<double>(all);
  constexpr int kSteps = 8;
  const double wanted = static_cast<double>(limit), close = std::max(1.0, wanted / 256);
  for (int i = 0; i < kSteps && over - fits > 1 && wanted - fits_tokens > close; ++i) {
    const double share = (wanted - close / 2 - fits_tokens) / std::max(over_tokens - fits_tokens, 1.0);
    const double bytes = std::floor(fits + (over - fits) * std::clamp(share, 0.02, 0.98));
    std::string piece = cut(text, how, static_cast<std::size_t>(bytes));
    const std::int64_t n = tokens(piece);
    if (n <= limit) {
      best = std::move(piece);
      fits = bytes;
      fits_tokens = static_cast<double>(n);
    } else {
      over = bytes;
      over_tokens = static_cast<double>(n);
    }
  }
  return best;
}

std::vector<std::string> split_to_fit(const std::string& text, std::int64_t limit, const PromptTokens& tokens) {
  const std::int64_t frame = tokens(""), all = tokens(text);
  if (frame >= limit) return {};
  const auto fewest = static_cast<std::size_t>((all - frame + limit - frame - 1) / (limit - frame));
  for (std::size_t count = std::max<std::size_t>(fewest, 1); count <= 2 * fewest + 2 && count <= text.size(); ++count) {
    std::vector<std::string> parts;
    std::size_t from = 0;
    bool fit = true;
    for (std::size_t i = 1; i <= count && fit; ++i) {
      const std::size_t to = std::max(from, break_before(text, text.size() * i / count, from));
      parts.push_back(text.substr(from, to - from));
      from = std::min(text.find_first_not_of(kBlanks, to), text.size());
      fit = tokens(parts.back()) <= limit;
    }
    std::erase_if(parts, [](const std::string& part) { return part.find_first_not_of(kBlanks) == std::string::npos; });
    if (fit) return parts;
  }
  return {};
}

}  // namespace longhaul
