#include "runtime/batch/overflow.h"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace longhaul {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";

bool in_character(const std::string& text, std::size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80;
}

/// How far a piece of so many bytes may be shortened to end with a word.
std::size_t look(std::size_t bytes) { return std::min<std::size_t>(bytes / 16, 200); }

/// The end of a word at or shortly before `at`, else the end of a character.
std::size_t break_before(const std::string& text, std::size_t at, std::size_t least) {
  if (at >= text.size()) return text.size();
  const std::size_t blank = text.find_last_of(kBlanks, at);
  if (blank != std::string::npos && blank > least && blank + look(at - least) >= at) return blank;
  while (at > least && in_character(text, at)) --at;
  return at;
}

/// The beginning of a word at or shortly behind `at`, else the beginning of a character.
std::size_t break_behind(const std::string& text, std::size_t at) {
  const std::size_t blank = text.find_first_of(kBlanks, at);
  if (at > 0 && blank != std::string::npos && blank <= at + look(text.size() - at)) return blank + 1;
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

const char* name_of(Overflow how) {
  switch (how) {
    case Overflow::error:
      return "error";
    case Overflow::truncate_middle:
      return "truncate-middle";
    case Overflow::truncate_left:
      return "truncate-left";
    case Overflow::map_reduce:
      return "map-reduce";
  }
  return "";
}

std::string cut_to_fit(const std::string& text, Overflow how, std::int64_t limit, const PromptTokens& tokens) {
  std::string best = cut(text, how, 0);
  const std::int64_t least = tokens(best), all = tokens(text);
  if (least > limit) return "";
  // Tokens are nearly linear in bytes: the line between what fits and what does not leads to the place in a few steps.
  // Every other step halves, for texts that are not alike all over.
  double fits = 0, fits_tokens = static_cast<double>(least);
  double over = static_cast<double>(text.size()), over_tokens = static_cast<double>(all);
  constexpr int kSteps = 12;
  const double wanted = static_cast<double>(limit), close = std::max(1.0, wanted / 256);
  for (int i = 0; i < kSteps && over - fits > 1 && wanted - fits_tokens > close; ++i) {
    const double line = (wanted - close / 2 - fits_tokens) / std::max(over_tokens - fits_tokens, 1.0);
    const double share = i % 2 == 0 ? line : 0.5;
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
  const auto room = static_cast<double>(limit - frame);
  const auto fewest = static_cast<std::size_t>(std::max(std::ceil(static_cast<double>(all - frame) / room), 1.0));
  std::vector<std::string> parts;
  // In `count` pieces; what has more tokens for its bytes than the rest is halved again.
  auto split = [&](auto& self, const std::string& piece, std::size_t count) -> bool {
    for (std::size_t i = 1, from = 0; i <= count; ++i) {
      const std::size_t to = std::max(from, break_before(piece, piece.size() * i / count, from));
      std::string part = piece.substr(from, to - from);
      from = std::min(piece.find_first_not_of(kBlanks, to), piece.size());
      if (part.find_first_not_of(kBlanks) == std::string::npos) continue;
      if (tokens(part) <= limit) parts.push_back(std::move(part));
      else if (part.size() < 8 || !self(self, part, 2)) return false;
    }
    return true;
  };
  if (!split(split, text, fewest)) return {};
  return parts;
}

}  // namespace longhaul
