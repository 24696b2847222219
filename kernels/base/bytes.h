// Sizes as people write them: "24GiB", "500MiB", "5GB" for bytes; "256K", "1M" for tokens.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace longhaul {

/// Bytes of a size with a unit (B, KB, KiB, ... TiB); throws UserError{usage} for a bare number, with a hint.
std::int64_t parse_bytes(std::string_view text);
/// Tokens: a plain number or one with K (1024) or M (1024 * 1024); throws UserError{usage}.
std::int64_t parse_tokens(std::string_view text);
/// "1.50 GiB", "512 B".
std::string format_bytes(std::int64_t bytes);

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }
constexpr std::int64_t round_down(std::int64_t a, std::int64_t b) { return a / b * b; }

}  // namespace longhaul
