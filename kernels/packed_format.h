// How a weight matrix rests in fewer bits: codes, and scales for groups of neighbouring inputs. One definition for all
// devices; the readers of checkpoints make such rows (runtime/checkpoint), expand turns them into bf16. constexpr, so
// that device code can call it.
//
// A row of the matrix, all inputs of an output, is its codes, then its scales in words of 32 bits, then zeros up to a
// multiple of 16 bytes; rows follow one another. A value is a code's number, scaled in float32 and rounded once to
// bf16: so the bits are those that a conversion when the file is read gives.
//
//          a value is            code             scales                                    group          bits a
//          weight
//   int4   scale * (code - zero) 0 to 15          f16 scale, zero: a word a group           any            4.25 of 128
//   q4_k   step * code - base    0 to 15          5 words for 8 groups: f16 d and e, then   32 (256)       4.625
//                                                 8 pairs of bytes s, m: d * s and e * m
//   int8   scale * code          -128 to 127      a float a group                           any            8.25 of 128
//   q6_k   step * code           -32 to 31        5 words for 16 groups: f16 d, then        16 (256)       8.625
//                                                 16 signed bytes s: d * s
//   fp8    scale * code          e4m3             a float a group                           any            8.25 of 128
//
// Groups and rows are of whole packs of 8 values, the last group of a row may be shorter; of q4_k and q6_k rows are of
// whole 256. A word of 4-bit codes holds 8 of them in order, the first in the lowest bits. What is not finite, and
// e4m3's NaN, is refused when the file is read.
#pragma once
#include <string_view>

#include "kernels/row_format.h"

namespace longhaul {

enum class PackedType : std::uint8_t { none, int4, q4_k, int8, q6_k, fp8 };  // none: in bf16

struct PackedFormat {
  PackedType type = PackedType::none;
  std::int32_t group = 0;  // values that share a scale
  bool operator==(const PackedFormat&) const = default;
};

constexpr std::string_view name_of(PackedType type) {
  constexpr std::string_view kNames[]{"bf16", "int4", "q4_k", "int8", "q6_k", "fp8"};
  return kNames[static_cast<int>(type)];
}

inline constexpr std::int64_t kPackedBlock = 256;  // of q4_k and q6_k
inline constexpr std::int64_t kBlockWords = 5;     // of its scales

constexpr bool is_four_bits(PackedType type) { return type == PackedType::int4 || type == PackedType::q4_k; }
constexpr bool has_blocks(PackedType type) { return type == PackedType::q4_k || type == PackedType::q6_k; }

/// A row of a float a value has no format: it is bf16.
constexpr bool is_packable(PackedFormat f, std::int64_t cols) {
  if (f.type == PackedType::none || cols <= 0 || cols % 8 != 0) return false;
  if (f.type == PackedType::q4_k) return f.group == 32 && cols % kPackedBlock == 0;
  if (f.type == PackedType::q6_k) return f.group == 16 && cols % kPackedBlock == 0;
  return f.group > 0 && f.group % 8 == 0;
}
constexpr std::int64_t packed_code_bytes(PackedFormat f, std::int64_t cols) {
  return is_four_bits(f.type) ? cols / 2 : cols;
}
constexpr std::int64_t packed_scale_words(PackedFormat f, std::int64_t cols) {
  return has_blocks(f.type) ? cols / kPackedBlock * kBlockWords : (cols + f.group - 1) / f.group;
}
/// Of a matrix's row; in bf16 too, then whatever its length.
constexpr std::int64_t packed_row_bytes(PackedFormat f, std::int64_t cols) {
  if (f.type == PackedType::none) return 2 * cols;
  return (packed_code_bytes(f, cols) + 4 * packed_scale_words(f, cols) + 15) / 16 * 16;
}

/// IEEE half precision ("f16"); exact. The bits become a float that is 2^112 too small, subnormal where the half is.
constexpr float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const float magnitude = std::bit_cast<float>(static_cast<std::uint32_t>(bits & 0x7fffu) << 13) * 0x1p112f;
  const std::uint32_t special = (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign | special);
}

namespace packed {

/// What turns a group's codes into values: step * (code - zero) - base. But for the rounding to bf16 at the end only
/// int8's and fp8's product is not exact in float32, and they have no base: so it does not matter whether a compiler
/// fuses the product with the difference.
struct Scale {
  float step, base;
  std::int32_t zero;
};

/// `words`: the row's scales.
constexpr Scale scale_of(PackedType type, const std::uint32_t* words, std::int64_t group) {
  if (type == PackedType::int4) {
    const std::uint32_t word = words[group];
    return {half_to_float(static_cast<std::uint16_t>(word)), 0, static_cast<std::int32_t>(word >> 16)};
  }
  if (!has_blocks(type)) return {std::bit_cast<float>(words[group]), 0, 0};
  const std::int64_t groups = type == PackedType::q4_k ? 8 : 16, in_block = group % groups;
  const std::uint32_t* block = words + group / groups * kBlockWords;
  const float d = half_to_float(static_cast<std::uint16_t>(block[0]));
  if (type == PackedType::q6_k) {
    const auto s = static_cast<std::int8_t>(block[1 + in_block / 4] >> in_block % 4 * 8);
    return {d * static_cast<float>(s), 0, 0};
  }
  const float e = half_to_float(static_cast<std::uint16_t>(block[0] >> 16));
  const std::uint32_t pair = block[1 + in_block / 2] >> in_block % 2 * 16;
  return {d * static_cast<float>(pair & 255u), e * static_cast<float>(pair >> 8 & 255u), 0};
}

/// Of a code in the low bits.
constexpr float value_of(PackedType type, std::uint32_t code, const Scale& s) {
  if (type == PackedType::fp8) return s.step * rows::e4m3_value(static_cast<std::uint8_t>(code));
  if (!is_four_bits(type)) return s.step * static_cast<float>(static_cast<std::int8_t>(code));
  return s.step * static_cast<float>(static_cast<std::int32_t>(code) - s.zero) - s.base;
}

}  // namespace packed

}  // namespace longhaul
