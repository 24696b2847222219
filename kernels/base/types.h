// bf16 and the element types of activations and KV rows.
#pragma once
#include <bit>
#include <cstdint>
#include <string_view>

namespace longhaul {

struct bf16 {
  std::uint16_t bits;
};

constexpr float to_float(bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }
constexpr float to_float(float x) { return x; }

/// Round to nearest, ties to even; NaN stays NaN.
constexpr bf16 to_bf16(float x) {
  auto u = std::bit_cast<std::uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

template <class T>
T from_float(float x) {
  if constexpr (sizeof(T) == 2) return to_bf16(x);
  else return x;
}

enum class DType : std::uint8_t { bf16, f32 };

constexpr std::int64_t size_of(DType t) { return t == DType::bf16 ? 2 : 4; }
constexpr std::string_view name_of(DType t) { return t == DType::bf16 ? "bf16" : "f32"; }

}  // namespace longhaul
