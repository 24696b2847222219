// KV rows of every type on the device: eight neighbouring values of a row, as they lie in memory and as values; and a
// group's codes. A reader is RowReader<type, T>, T being the type of activations. Device code only.
#pragma once
#include <cuda_bf16.h>

#include "kernels/cuda/pack.cuh"
#include "kernels/row_format.h"

namespace longhaul::cuda {

__device__ inline __nv_bfloat162 as_pair(std::uint32_t bits) { return *reinterpret_cast<__nv_bfloat162*>(&bits); }
__device__ inline std::uint32_t as_bits(__nv_bfloat162 pair) { return *reinterpret_cast<std::uint32_t*>(&pair); }
__device__ inline std::uint32_t twice(std::uint32_t half) { return __byte_perm(half, 0, 0x1010); }

/// Pairs of bf16 from pairs of codes: those in bytes `n` and `n + 1` of `codes`, n being 0 or 2.
template <RowType type>
__device__ std::uint32_t code_pair(std::uint32_t codes, int n) {
  if constexpr (type == RowType::fp8) {
    // The code's exponent and fraction at the bf16's: 2^120 too small, subnormal codes too.
    const std::uint32_t x = __byte_perm(codes, 0, n == 0 ? 0x1404 : 0x3424);
    return as_bits(__hmul2(as_pair((x & 0x80008000u) | (x & 0x7f007f00u) >> 4), as_pair(0x7b807b80u)));
  } else {
    const std::uint32_t x = __byte_perm(codes, 0x43434343u, n == 0 ? 0x4140 : 0x4342);  // 128 + 7 bits, and a sign
    if constexpr (type == RowType::int4) return as_bits(__hsub2(as_pair(x), as_pair(0x43004300u)));
    else return as_bits(__hsub2(as_pair(x & 0xff7fff7fu), as_pair(x & 0xff80ff80u)));
  }
}

template <RowType type, class T>
struct RowReader {
  /// Eight codes of a group, and its scale (low half; int4: minimum in the high half).
  struct Raw {
    uint2 codes;  // int4: x alone
    std::uint32_t scale;
  };

  /// From value c of the row on, a multiple of 8 in [0, 2 * d).
  static __device__ Raw load(const std::byte* row, int d, int c) {
    const std::byte* scale = row + code_bytes(type, d) + c / static_cast<int>(kRowGroup) * scale_bytes(type);
    if constexpr (type == RowType::int4)
      return {{__ldg(reinterpret_cast<const std::uint32_t*>(row + c / 2)), 0},
              __ldg(reinterpret_cast<const std::uint32_t*>(scale))};
    else return {__ldg(reinterpret_cast<const uint2*>(row + c)), __ldg(reinterpret_cast<const std::uint16_t*>(scale))};
  }

  static __device__ Pack<float, 8> values(const Raw& raw) {
    const rows::Scale scale{__uint_as_float(raw.scale << 16), __uint_as_float(raw.scale & 0xffff0000u)};
    Pack<float, 8> x;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const std::uint32_t word = type == RowType::int4 || i < 4 ? raw.codes.x : raw.codes.y;
      const std::uint32_t code =
          type == RowType::int4 ? word >> (i % 4 * 8 + i / 4 * 4) & 15 : word >> (i % 4 * 8) & 255;
      x.v[i] = rows::value_of(type, static_cast<std::uint8_t>(code), scale);
    }
    return x;
  }

  /// The same in bf16, rounded once.
  static __device__ uint4 halves(const Raw& raw) {
    const __nv_bfloat162 scale = as_pair(twice(raw.scale));
    auto scaled = [&](std::uint32_t codes, int n) {
      const __nv_bfloat162 x = as_pair(code_pair<type>(codes, n));
      if constexpr (type == RowType::int4) return as_bits(__hfma2(x, scale, as_pair(twice(raw.scale >> 16))));
      else return as_bits(__hmul2(x, scale));
    };
    std::uint32_t first = raw.codes.x, second = raw.codes.y;
    if constexpr (type == RowType::int4) second = first >> 4 & 0x0f0f0f0fu, first &= 0x0f0f0f0fu;
    return {scaled(first, 0), scaled(first, 2), scaled(second, 0), scaled(second, 2)};
  }
};

template <class T>
struct RowReader<RowType::act, T> {
  using Raw = Pack<T, 8>;
  static __device__ Raw load(const std::byte* row, int, int c) {
    return load_raw<8>(reinterpret_cast<const T*>(row) + c);
  }
  static __device__ Pack<float, 8> values(const Raw& raw) { return widen(raw); }
};

/// For tensor cores: read only, 16 bytes an access.
template <>
struct RowReader<RowType::act, bf16> {
  using Raw = uint4;
  static __device__ Raw load(const std::byte* row, int, int c) {
    return __ldg(reinterpret_cast<const uint4*>(row + 2 * c));
  }
  static __device__ Pack<float, 8> values(const Raw& raw) {
    return widen(*reinterpret_cast<const Pack<bf16, 8>*>(&raw));
  }
  static __device__ const uint4& halves(const Raw& raw) { return raw; }
};

/// Value c of a row, where speed does not matter.
template <class T>
__device__ float row_value(RowType type, const std::byte* row, int d, int c) {
  if (type == RowType::act) return widen(reinterpret_cast<const T*>(row)[c]);
  const auto* scale = reinterpret_cast<const bf16*>(row + code_bytes(type, d) + c / kRowGroup * scale_bytes(type));
  if (type != RowType::int4) return rows::value_of(type, static_cast<std::uint8_t>(row[c]), {widen(*scale), 0});
  const unsigned pair = static_cast<unsigned>(row[c / 8 * 4 + c % 4]);
  return rows::value_of(type, static_cast<std::uint8_t>(c % 8 < 4 ? pair & 15 : pair >> 4),
                        {widen(scale[0]), widen(scale[1])});
}

/// By a warp, lane i having value i of the group: the codes and the scale of group g, to the bit of the CPU's. The
/// lanes of the last group also fill the row.
__device__ inline void encode_group(RowType type, std::byte* row, int d, int g, float x) {
  const int lane = threadIdx.x % 32;
  rows::Range range;
  range.add(x);
  for (int offset = 16; offset > 0; offset /= 2) {
    range.top = max(range.top, __shfl_xor_sync(~0u, range.top, offset));
    range.low = fminf(range.low, __shfl_xor_sync(~0u, range.low, offset));
    range.high = fmaxf(range.high, __shfl_xor_sync(~0u, range.high, offset));
  }
  const rows::Scale scale = rows::scale_of(type, range);
  const unsigned code = rows::code_of(type, x, scale), above = __shfl_xor_sync(~0u, code, 4);
  auto* scales = reinterpret_cast<bf16*>(row + code_bytes(type, d));
  if (type == RowType::int4) {
    if (lane % 8 < 4) row[g * 16 + lane / 8 * 4 + lane % 4] = static_cast<std::byte>(code | above << 4);
    if (lane == 0) scales[2 * g] = to_bf16(scale.scale), scales[2 * g + 1] = to_bf16(scale.low);
  } else {
    row[g * 32 + lane] = static_cast<std::byte>(code);
    if (lane == 0) scales[g] = to_bf16(scale.scale);
  }
  const int groups = 2 * d / static_cast<int>(kRowGroup);
  if (g + 1 < groups) return;
  const std::int64_t used = code_bytes(type, d) + groups * scale_bytes(type);
  if (used + lane < row_bytes(type, d, DType::bf16)) row[used + lane] = std::byte{0};
}

}  // namespace longhaul::cuda
