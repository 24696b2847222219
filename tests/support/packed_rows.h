// Packed weights as a test sees them: random rows with scales of every kind, and their values by the definition, each
// computed in double and rounded to float32 and then to bf16.
#pragma once
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/packed_format.h"
#include "tests/support/coded_rows.h"

namespace longhaul::test {

inline constexpr std::array kPackedFormats{
    PackedFormat{PackedType::int4, 8},  PackedFormat{PackedType::int4, 128}, PackedFormat{PackedType::int4, 768},
    PackedFormat{PackedType::q4_k, 32}, PackedFormat{PackedType::int8, 32},  PackedFormat{PackedType::int8, 200},
    PackedFormat{PackedType::q6_k, 16}, PackedFormat{PackedType::fp8, 128},  PackedFormat{PackedType::fp8, 24}};

inline double half_value(std::uint32_t half) {
  const int exponent = static_cast<int>(half >> 10 & 31), fraction = static_cast<int>(half & 1023);
  const double sign = half >> 15 & 1 ? -1 : 1;
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

/// Zeros of both signs, subnormals, the largest and infinity among ordinary numbers.
inline std::vector<std::byte> random_packed(PackedFormat f, std::int64_t rows, std::int64_t cols,
                                            std::mt19937_64& random) {
  constexpr std::array<std::uint32_t, 6> kHalves{0x0000, 0x8000, 0x0001, 0x83ff, 0x7bff, 0x7c00};
  constexpr std::array<float, 7> kFloats{0, -0.0f, 1e-45f, -3e-39f, 3e38f, 1e-30f, INFINITY};
  auto half = [&] {
    return random() % 8 == 0 ? kHalves[random() % kHalves.size()] : static_cast<std::uint32_t>(random() % 0x7c00);
  };
  const std::int64_t bytes = packed_row_bytes(f, cols), words = packed_scale_words(f, cols);
  std::vector<std::byte> all(static_cast<std::size_t>(rows * bytes));
  for (std::int64_t r = 0; r < rows; ++r) {
    std::byte* row = all.data() + r * bytes;
    for (std::int64_t i = 0; i < packed_code_bytes(f, cols); ++i) {
      row[i] = static_cast<std::byte>(random());
      if (f.type == PackedType::fp8 && (row[i] & std::byte{0x7f}) == std::byte{0x7f}) row[i] = std::byte{0x7e};  // NaN
    }
    for (std::int64_t w = 0; w < words; ++w) {
      auto word = static_cast<std::uint32_t>(random());
      if (f.type == PackedType::int4) word = half() | static_cast<std::uint32_t>(random() % 16) << 16;
      else if (has_blocks(f.type) && w % kBlockWords == 0) word = half() | half() << 16;
      else if (!has_blocks(f.type)) {
        const float scale = random() % 4 == 0 ? kFloats[random() % kFloats.size()]
                                              : std::ldexp(static_cast<float>(random() % 65536) - 3e4f, -20);
        word = std::bit_cast<std::uint32_t>(scale);
      }
      std::memcpy(row + packed_code_bytes(f, cols) + 4 * w, &word, 4);
    }
  }
  return all;
}

inline std::vector<bf16> reference_expand(const std::vector<std::byte>& packed, PackedFormat f, std::int64_t rows,
                                          std::int64_t cols) {
  std::vector<bf16> out;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto* row = reinterpret_cast<const unsigned char*>(packed.data()) + r * packed_row_bytes(f, cols);
      const unsigned char* scales = row + packed_code_bytes(f, cols);
      auto half_at = [&](std::int64_t at) {
        return half_value(scales[at] | static_cast<unsigned>(scales[at + 1]) << 8);
      };
      const int nibble = is_four_bits(f.type) ? row[c / 2] >> c % 2 * 4 & 15 : 0;
      const double byte = is_four_bits(f.type) ? 0 : static_cast<signed char>(row[c]);
      const std::int64_t block = c / 256 * 20, in_block = c % 256;  // bytes; values
      double x = 0;
      float scale = 0;
      switch (f.type) {
        case PackedType::int4:
          x = half_at(c / f.group * 4) * (nibble - scales[c / f.group * 4 + 2]);
          break;
        case PackedType::q4_k: {
          const unsigned char* pair = scales + block + 4 + in_block / 32 * 2;
          x = half_at(block) * pair[0] * nibble - half_at(block + 2) * pair[1];
          break;
        }
        case PackedType::q6_k:
          x = half_at(block) * static_cast<signed char>(scales[block + 4 + in_block / 16]) * byte;
          break;
        case PackedType::int8:
        case PackedType::fp8:
          std::memcpy(&scale, scales + c / f.group * 4, 4);
          x = static_cast<double>(scale) * (f.type == PackedType::fp8 ? e4m3(row[c]) : byte);
          break;
        case PackedType::none:
          break;
      }
      out.push_back(to_bf16(static_cast<float>(x)));
    }
  return out;
}

/// The first place where these differ, but for which NaN it is; -1: none.
inline std::int64_t first_other(const std::vector<bf16>& got, const std::vector<bf16>& want) {
  for (std::size_t i = 0; i < want.size(); ++i) {
    const bool both = std::isnan(to_float(got[i])) && std::isnan(to_float(want[i]));
    if (got[i].bits != want[i].bits && !both) return static_cast<std::int64_t>(i);
  }
  return -1;
}

}  // namespace longhaul::test
