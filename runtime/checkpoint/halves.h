// Conversions that weights go through by the billion: without branches, so that compilers make them vector code.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/base/types.h"

namespace longhaul {

/// IEEE half precision ("f16"); exact. The bits become a float that is 2^112 too small, subnormal where the half is.
constexpr float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const float magnitude = std::bit_cast<float>(static_cast<std::uint32_t>(bits & 0x7fffu) << 13) * 0x1p112f;
  const std::uint32_t special = (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign | special);
}

/// to_bf16() of finite values; NaN becomes infinity, so that TensorReader::convert() sees it.
constexpr bf16 round_weight(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x);
  std::int32_t magnitude = std::min(bits & 0x7fffffff, 0x7f800000);
  magnitude += 0x7fff + (magnitude >> 16 & 1);
  return {static_cast<std::uint16_t>(magnitude >> 16 | (bits >> 16 & 0x8000))};
}

}  // namespace longhaul
