// KV rows of every type for tests: encoded by the CPU device's operator, and what they stand for, read back by the
// description in kernels/row_format.h and nothing else.
#pragma once
#include <array>
#include <bit>
#include <cmath>

#include "kernels/cpu/ops.h"
#include "tests/support/random.h"

namespace longhaul::test {

inline constexpr std::array kCodedTypes{RowType::int8, RowType::fp8, RowType::int4};
inline constexpr std::array kRowTypes{RowType::act, RowType::int8, RowType::fp8, RowType::int4};

/// What an e4m3 code means.
inline double e4m3(unsigned code) {
  const unsigned exponent = code >> 3 & 15, fraction = code & 7;
  if (exponent == 15 && fraction == 7) return NAN;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, static_cast<int>(exponent) - 10);
  return code >> 7 ? -magnitude : magnitude;
}

/// A bf16 in a row.
inline double scale_in(const std::byte* at) {
  bf16 x;
  std::memcpy(&x, at, sizeof x);
  return to_float(x);
}

/// Value i of a row's 2 * head_dim.
inline double coded_value(RowType type, const std::byte* row, std::int64_t head_dim, std::int64_t i) {
  const auto byte = [&](std::int64_t n) { return std::to_integer<unsigned>(row[n]); };
  if (type == RowType::int4) {
    const std::byte* scale = row + head_dim + i / 32 * 4;
    const unsigned pair = byte(i / 8 * 4 + i % 4), code = i % 8 < 4 ? pair & 15 : pair >> 4;
    return scale_in(scale) * code + scale_in(scale + 2);
  }
  const double scale = scale_in(row + 2 * head_dim + i / 32 * 2);
  return scale * (type == RowType::fp8 ? e4m3(byte(i)) : static_cast<std::int8_t>(byte(i)));
}

/// `rows` consecutive rows of activations as `type` keeps them.
inline std::vector<std::byte> encode_rows(RowType type, const Tensor& x, std::int64_t head_dim) {
  const std::int64_t rows = x.size / (2 * head_dim), bytes = row_bytes(type, head_dim, x.type);
  std::vector<std::byte> out(static_cast<std::size_t>(rows * bytes), std::byte{0xee});
  Tensor from = x;
  cpu::store_rows({.src = {from.bytes.data(), 0, 0, rows},
                   .dst = {out.data(), 0, 0, rows, 0, type},
                   .act = x.type,
                   .kv_heads = 1,
                   .head_dim = head_dim});
  return out;
}

/// What they stand for; float32 holds it exactly.
inline Tensor decode_rows(RowType type, const std::vector<std::byte>& coded, std::int64_t head_dim) {
  const std::int64_t bytes = row_bytes(type, head_dim, DType::f32), width = 2 * head_dim;
  Tensor x(DType::f32, static_cast<std::int64_t>(coded.size()) / bytes * width);
  for (std::int64_t i = 0; i < x.size; ++i)
    x.set(i, coded_value(type, coded.data() + i / width * bytes, head_dim, i % width));
  return x;
}

}  // namespace longhaul::test
