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

/// Halves the vector until one lane is left: a fixed order.
template <int N>
[[gnu::always_inline]] inline float sum(F<N> v) {
  if constexpr (N == 1) {
    return v[0];
  } else {
    F<N / 2> low, high;
    __builtin_memcpy(&low, &v, sizeof low);
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
    return sum<N / 2>(low + high);
  }
}

template <int N>
[[gnu::always_inline]] inline float highest(F<N> v) {
  float r = v[0];
  for (int i = 1; i < N; ++i) r = v[i] > r ? v[i] : r;
  return r;
}

/// e^x within 2 ulp; 0 below -87.3 (so for -inf), inf above 88.7; NaN stays NaN.
template <int N>
[[gnu::always_inline]] inline F<N> exp(F<N> x) {
  using I = typename Vec<N>::I;
  // n = round(x / ln 2) by adding 1.5 * 2^23, which leaves n in the low bits; then the series on |r| <= ln 2 / 2.
  const float shift = 12582912.0f;
  F<N> clamped = x < -88.0f ? splat<N>(-88.0f) : x;
  clamped = clamped > 89.0f ? splat<N>(89.0f) : clamped;
  F<N> t = clamped * 1.44269504f + shift, n = t - shift;
  F<N> r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  F<N> p = splat<N>(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n in two factors, as n reaches 128 where e^x is still finite.
  I k = (I)t - 0x4b400000, half = k >> 1;
  F<N> y = p * (F<N>)((half + 127) << 23) * (F<N>)((k - half + 127) << 23);
  return x < -87.3f ? splat<N>(0.0f) : y;
}

}  // namespace longhaul::cpu::LONGHAUL_ISA
