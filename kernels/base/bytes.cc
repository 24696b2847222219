#include "kernels/base/bytes.h"

#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "kernels/base/error.h"

namespace longhaul {
namespace {

/// The number at the front of `text`, and what follows it without blanks; false when there is no number.
bool split_number(std::string_view text, double& number, std::string_view& unit) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || !std::isfinite(number) || number < 0) return false;
  unit = text.substr(end - text.data());
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  return true;
}

}  // namespace

std::int64_t parse_bytes(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, double>, 9> kUnits{{{"B", 1},
                                                                              {"KB", 1e3},
                                                                              {"MB", 1e6},
                                                                              {"GB", 1e9},
                                                                              {"TB", 1e12},
                                                                              {"KiB", 0x1p10},
                                                                              {"MiB", 0x1p20},
                                                                              {"GiB", 0x1p30},
                                                                              {"TiB", 0x1p40}}};
  double number;
  std::string_view unit;
  if (split_number(text, number, unit)) {
    for (auto [name, factor] : kUnits)
      if (unit == name && number * factor < 0x1p62) return std::llround(number * factor);
    if (unit.empty()) throw UserError(Exit::usage, "size '{}' has no unit; write {}GiB or {}MiB", text, text, text);
  }
  throw UserError(Exit::usage, "'{}' is not a size; write for example 24GiB, 500MiB or 5GB", text);
}

std::int64_t parse_tokens(std::string_view text) {
  double number;
  std::string_view unit;
  if (split_number(text, number, unit)) {
    double factor = unit == "K" ? 0x1p10 : unit == "M" ? 0x1p20 : unit.empty() ? 1 : 0, tokens = number * factor;
    if (tokens >= 1 && tokens < 0x1p40 && tokens == std::floor(tokens)) return static_cast<std::int64_t>(tokens);
  }
  throw UserError(Exit::usage, "'{}' is not a number of tokens; write for example 4096, 256K or 1M", text);
}

std::string format_bytes(std::int64_t bytes) {
  static constexpr std::array kNames{"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (std::abs(value) >= 1024 && unit + 1 < kNames.size()) value /= 1024, ++unit;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, kNames[unit]);
}

}  // namespace longhaul
