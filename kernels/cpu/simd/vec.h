// Vectors as GCC and clang spell them, so that one source serves every instruction set. Include from simd/*.cc only.
#pragma once
#include <cstdint>

#include "kernels/cpu/simd/simd.h"

namespace longhaul::cpu::LONGHAUL_ISA {

#ifdef __AVX512F__
inline constexpr int kLanes = 16;
#else
inline constexpr int kLanes = 8;
#endif

template <int N>
struct Vec {
  typedef float F __attribute__((vector_size(N * 4)));
  typedef std::int32_t I __attribute__((vector_size(N * 4)));
  typedef std::uint32_t U __attribute__((vector_size(N * 4)));
  typedef std::uint16_t H __attribute__((vector_size(N * 2)));
};

template <int N>
using F = typename Vec<N>::F;

template <int N>
[[gnu::always_inline]] inline F<N> load(const float* p) {
  F<N> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <int N>
[[gnu::always_inline]] inline F<N> load(const bf16* p) {
  typename Vec<N>::H h;
  __builtin_memcpy(&h, p, sizeof h);
  return (F<N>)(__builtin_convertvector(h, typename Vec<N>::U) << 16);
}

template <int N>
[[gnu::always_inline]] inline void store(float* p, F<N> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

/// The upper halves after rounding to nearest even; NaN stays NaN.
template <int N>
[[gnu::always_inline]] inline typename Vec<N>::U rounded_bits(F<N> v) {
  using U = typename Vec<N>::U;
  U u = (U)v, r = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return (u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : r;
}

template <int N>
[[gnu::always_inline]] inline void store(bf16* p, F<N> v) {
  auto h = __builtin_convertvector(rounded_bits<N>(v), typename Vec<N>::H);
  __builtin_memcpy(p, &h, sizeof h);
}

template <int N>
[[gnu::always_inline]] inline F<N> round_to_bf16(F<N> v) {
  return (F<N>)(rounded_bits<N>(v) << 16);
}

template <int N>
[[gnu::always_inline]] inline F<N> splat(float x) {
  return F<N>{} + x;
}

template <int N>
[[gnu::always_inline]] inline F<N> max(F<N> a, F<N> b) {
  return a > b ? a : b;
}

// By shuffles: taking a vector's address would keep running sums in memory.
[[gnu::always_inline]] inline F<8> low_half(F<16> v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7); }
[[gnu::always_inline]] inline F<8> high_half(F<16> v) {
  return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}
[[gnu::always_inline]] inline F<4> low_half(F<8> v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3); }
[[gnu::always_inline]] inline F<4> high_half(F<8> v) { return __builtin_shufflevector(v, v, 4, 5, 6, 7); }

/// All lanes added, halving the vector: a fixed order.
template <int N>
[[gnu::always_inline]] inline float sum(F<N> v) {
  if constexpr (N == 4) return (v[0] + v[2]) + (v[1] + v[3]);
  else return sum<N / 2>(low_half(v) + high_half(v));
}

template <int N>
[[gnu::always_inline]] inline float highest(F<N> v) {
  if constexpr (N > 4) {
    return highest<N / 2>(max<N / 2>(low_half(v), high_half(v)));
  } else {
    float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
  }
}

/// The sums of four vectors for little more than the price of one: they are folded into each other, not one by one.
[[gnu::always_inline]] inline F<4> sum4(F<8> a, F<8> b, F<8> c, F<8> d) {
  F<8> ab = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13) +
            __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
  F<8> cd = __builtin_shufflevector(c, d, 0, 8, 1, 9, 4, 12, 5, 13) +
            __builtin_shufflevector(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
  F<8> all = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
             __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
  return low_half(all) + high_half(all);
}
[[gnu::always_inline]] inline F<4> sum4(F<16> a, F<16> b, F<16> c, F<16> d) {
  return sum4(low_half(a) + high_half(a), low_half(b) + high_half(b), low_half(c) + high_half(c),
              low_half(d) + high_half(d));
}

/// e^x within 2 ulp for x <= 88 (beyond: e^88); 0 below -86.6, so for -inf; NaN stays NaN.
template <int N>
[[gnu::always_inline]] inline F<N> exp(F<N> x) {
  using I = typename Vec<N>::I;
  const F<N> low = splat<N>(-86.6f), high = splat<N>(88.0f);
  F<N> inside = low > x ? low : x;  // in this order a NaN comes through
  inside = high < inside ? high : inside;
  // n = round(x / ln 2) by adding 1.5 * 2^23, which leaves n in the low bits; then a polynomial on |r| <= ln 2 / 2.
  const float shift = 12582912.0f;
  F<N> t = inside * 1.44269504f + shift, n = t - shift;
  F<N> r = inside - n * 0.693359375f + n * 2.12194440e-4f;
  F<N> p = splat<N>(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  F<N> power = (F<N>)(((I)t << 23) + 0x3f800000);
  return x < low ? splat<N>(0.0f) : p * power;
}

}  // namespace longhaul::cpu::LONGHAUL_ISA
