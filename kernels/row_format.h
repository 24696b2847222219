// How a KV row is kept: as activations are, or in fewer bits. One definition for all devices and all places; whoever
// copies, gathers or retains rows sees `row_bytes` opaque bytes. constexpr, so that device code can call it.
//
// A row is K | V of one token and KV head: 2 * head_dim values in groups of 32. In fewer bits it is its codes, then a
// scale a group in bf16 (int4: step and minimum a group), then zeros up to a multiple of 16 bytes.
//
//            a value is                 code                               bytes a row, head_dim 64    128
//   act      the activation             bf16 (f32)                                      256 (512)     512 (1,024)
//   int8     scale * code               -127 to 127                                     144           272
//   fp8      scale * code               e4m3: sign, 4 bits exponent, 3 fraction         144           272
//   int4     step * code + minimum      0 to 15                                          80           160
//
// An int4 byte holds a low and a high nibble: of 8 consecutive values byte i holds i and i + 4, so that a 32-bit word
// is 8 values in order. A scale is the group's largest magnitude by the largest code, a step the group's width by 15. A
// group that holds something not finite gives NaN back, all of it, so that it is told as ever; one that is nothing but
// tiny (below 2^-100) gives zeros.
#pragma once
#include <string_view>

#include "kernels/base/types.h"

namespace longhaul {

enum class RowType : std::uint8_t { act, int8, fp8, int4 };

inline constexpr std::int64_t kRowGroup = 32;  // values that share a scale; head_dim is a multiple of it

constexpr std::int64_t code_bits(RowType type) { return type == RowType::int4 ? 4 : 8; }
/// Where a row's scales begin.
constexpr std::int64_t code_bytes(RowType type, std::int64_t head_dim) { return 2 * head_dim * code_bits(type) / 8; }
/// Of a group's scale, or step and minimum.
constexpr std::int64_t scale_bytes(RowType type) { return type == RowType::int4 ? 4 : 2; }
/// A multiple of 16 for a type of fewer bits.
constexpr std::int64_t row_bytes(RowType type, std::int64_t head_dim, DType act) {
  if (type == RowType::act) return 2 * head_dim * size_of(act);
  return (code_bytes(type, head_dim) + 2 * head_dim / kRowGroup * scale_bytes(type) + 15) / 16 * 16;
}

namespace rows {

/// What a group's values span.
struct Range {
  std::uint32_t top = 0;  // bits of the largest magnitude; those of infinity and above: not all are finite
  float low = 3.4028235e38f, high = -3.4028235e38f;

  constexpr void add(float x) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
    top = magnitude > top ? magnitude : top;
    low = x < low ? x : low;
    high = x > high ? x : high;
  }
};

/// What turns a group's codes into values: scale * code + low.
struct Scale {
  float scale, low;  // both have a bf16's bits; low: 0 but for int4
};

constexpr float round_bf16(float x) { return to_float(to_bf16(x)); }

constexpr Scale scale_of(RowType type, const Range& range) {
  const float top = std::bit_cast<float>(range.top);
  if (range.top >= 0x7f800000u) return {std::bit_cast<float>(0x7fc00000u), 0};
  if (top < 0x1p-100f) return {0, 0};
  if (type == RowType::int8) return {round_bf16(top / 127), 0};
  if (type == RowType::fp8) return {round_bf16(top / 448), 0};
  const float step = range.high / 15 - range.low / 15;  // not of the difference, which may overflow
  return {step < 0x1p-120f ? 0 : round_bf16(step), round_bf16(range.low) + 0.0f};  // never -0
}

/// The nearest whole number, ties to even, of |x| < 2^22.
constexpr float nearest(float x) {
  const float shift = 12582912.0f;  // 1.5 * 2^23
  return (x + shift) - shift;
}
constexpr float clamped(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

constexpr std::uint8_t e4m3_of(float x) {  // |x| <= 448
  const auto bits = std::bit_cast<std::uint32_t>(x), magnitude = bits & 0x7fffffffu;
  const std::uint32_t sign = bits >> 24 & 0x80u;
  if (magnitude < 0x3c800000u)  // below 2^-6 in steps of 2^-9
    return static_cast<std::uint8_t>(sign | static_cast<std::uint32_t>(nearest(std::bit_cast<float>(magnitude) * 512)));
  const std::uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1u);
  return static_cast<std::uint8_t>(sign | ((rounded >> 20) - (120u << 3)));
}
/// Not of a NaN's code, which no row has.
constexpr float e4m3_value(std::uint8_t code) {
  const std::uint32_t magnitude = code & 0x7fu, sign = static_cast<std::uint32_t>(code & 0x80u) << 24;
  const float value =
      magnitude < 8 ? static_cast<float>(magnitude) * 0x1p-9f : std::bit_cast<float>((magnitude << 20) + (120u << 23));
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

/// In the low bits.
constexpr std::uint8_t code_of(RowType type, float x, const Scale& s) {
  if (!(s.scale > 0)) return 0;
  if (type == RowType::int4) return static_cast<std::uint8_t>(nearest(clamped((x - s.low) / s.scale, 0, 15)));
  const float y = x / s.scale;
  if (type == RowType::fp8) return e4m3_of(clamped(y, -448, 448));
  return static_cast<std::uint8_t>(static_cast<std::int8_t>(nearest(clamped(y, -127, 127))));
}

/// The product is exact in float32, so it does not matter whether a compiler fuses it with the sum.
constexpr float value_of(RowType type, std::uint8_t code, const Scale& s) {
  const float x = type == RowType::int8  ? static_cast<float>(static_cast<std::int8_t>(code))
                  : type == RowType::fp8 ? e4m3_value(code)
                                         : static_cast<float>(code);
  return s.scale * x + s.low;
}

}  // namespace rows

}  // namespace longhaul
