// N elements at once between device memory and float registers; 16 bytes an access where N allows. Device code only.
#pragma once
#include <cuda_bf16.h>

#include "kernels/ops.h"

namespace longhaul::cuda {

template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T v[N];
};

__device__ inline float widen(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
__device__ inline float widen(float x) { return x; }

template <class T>
__device__ T narrow(float x) {
  if constexpr (sizeof(T) == 2) return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
  else return x;
}

template <class T, int N>
__device__ Pack<float, N> widen(const Pack<T, N>& x) {
  Pack<float, N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) y.v[i] = widen(x.v[i]);
  return y;
}

/// `at` is aligned to the pack.
template <int N, class T>
__device__ Pack<T, N> load_raw(const T* at) {
  return *reinterpret_cast<const Pack<T, N>*>(at);
}
template <int N, class T>
__device__ Pack<float, N> load(const T* at) {
  return widen(load_raw<N>(at));
}
template <int N, class T>
__device__ void store(T* at, const Pack<float, N>& x) {
  Pack<T, N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) y.v[i] = narrow<T>(x.v[i]);
  *reinterpret_cast<Pack<T, N>*>(at) = y;
}

/// 2^x to 2 ulp; below the normal numbers 0.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// exp(a - b) for running maxima, where -inf (nothing yet) against -inf counts as 1.
__device__ inline float decay(float a, float b) { return a == b ? 1.0f : exp2_fast((a - b) * 1.44269504f); }

}  // namespace longhaul::cuda
