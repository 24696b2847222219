// Conversions that weights go through by the billion: without branches, so that compilers make them vector code.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/packed_format.h"  // half_to_float

namespace longhaul {

/// to_bf16() of finite values; NaN becomes infinity, so that TensorReader::convert() sees it.
constexpr bf16 round_weight(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x);
  std::int32_t magnitude = std::min(bits & 0x7fffffff, 0x7f800000);
  magnitude += 0x7fff + (magnitude >> 16 & 1);
  return {static_cast<std::uint16_t>(magnitude >> 16 | (bits >> 16 & 0x8000))};
}

}  // namespace longhaul
