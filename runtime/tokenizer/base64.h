// Bytes as text (RFC 4648, padded), for numbers inside JSON.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

std::string to_base64(std::span<const std::uint8_t> bytes);
/// None where the text is not exactly what to_base64 gives for some bytes.
std::optional<std::vector<std::uint8_t>> from_base64(std::string_view text);

}  // namespace longhaul
