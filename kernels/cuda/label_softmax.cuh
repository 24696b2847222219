// The sum of each query head's softmax over label scores: by unit, then of all, always in one order.
// Device code only.
#pragma once
#include "kernels/cuda/label_scorer.cuh"

namespace longhaul::cuda::labels {

/// Warps that have come to the barrier; 0 when all have.
static __device__ unsigned arrived_warps;

/// Rows from a place of the block on have no part in the softmax.
template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::leave_out(Products<Quads>& x, int from) const {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int row = i / 2 % 2 * 32 + i / 4 * 16 + lane_ / 4 * 2 + i % 2;
#pragma unroll
    for (int n = 0; n < Quads; ++n)
      if (row >= from) x[n][i] = -INFINITY;
  }
}

template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::begin_sums() {
#pragma unroll
  for (int n = 0; n < Quads; ++n) sums_[n] = {far_ ? kEmpty : base_[n], 0};
}

/// Adds a block's; where there is a base, the powers take the place of the scores.
template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::add_powers(Products<Quads>& x) {
#pragma unroll
  for (int n = 0; n < Quads; ++n) {
    const float factor = factor_[n], high_factor = factor * 0.0625f;
    Sum& sum = sums_[n];
    if (far_) {
      float low = -INFINITY, high = -INFINITY;
#pragma unroll
      for (int i = 0; i < 8; ++i) (i & 2 ? high : low) = fmaxf(i & 2 ? high : low, x[n][i]);
      float top = fmaxf(low, high * 0.0625f);
#pragma unroll
      for (int o = 4; o < 32; o *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
      top = fmaxf(top * factor, sum.m);
      sum.l *= exp2_fast(sum.m - top), sum.m = top;
    }
    float power[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) power[i] = exp2_fast(fmaf(x[n][i], i & 2 ? high_factor : factor, -sum.m));
    sum.l += ((power[0] + power[1]) + (power[2] + power[3])) + ((power[4] + power[5]) + (power[6] + power[7]));
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (!far_) x[n][i] = power[i];
  }
}

template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::put_sums() const {
#pragma unroll
  for (int n = 0; n < Quads; ++n) {
    float sum = sums_[n].l;
#pragma unroll
    for (int o = 4; o < 32; o *= 2) sum += __shfl_xor_sync(~0u, sum, o);
    float most = sums_[n].m;
    if constexpr (Forms) {
      // Relative to its own power of 2: the form's base may lie far from what the sum is, and from other forms' bases.
      const auto bits = __float_as_uint(sum);
      const int exponent = static_cast<int>(bits >> 23) - 127;
      most += offset_[n];
      if (exponent == -127) most = kEmpty, sum = 0;
      else if (exponent < 128)
        most += static_cast<float>(exponent), sum = __uint_as_float((bits & 0x7fffffu) | 127u << 23);
    }
    if (const int g = n * 4 + lane_; lane_ < 4 && g < group_) unit_parts(head_of(at_), g)[at_.index] = {most, sum};
  }
}

/// A warp has come to the barrier: what it has written is seen by all that have waited. Each for itself, so that the
/// last one's writes alone are waited for.
template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::arrive() const {
  __syncwarp();
  if (lane_ != 0) return;
  asm volatile("red.release.gpu.global.inc.u32 [%0], %1;" ::"l"(&arrived_warps), "r"(gridDim.x * kWarps - 1)
               : "memory");
}

/// Until all warps of all blocks are here. They all run: one block fits a processor, there are no more of them, and
/// whatever runs beside them (products, where look-ahead selects exactly) ends by itself. No other kernel uses the
/// count, and no other that waits so may run at the same time: the next one's blocks come after this one's end, so none
/// sees a count of theirs.
template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::wait_for_all() const {
  if (threadIdx.x == 0)
    for (unsigned count = 1; count != 0;)
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(&arrived_warps) : "memory");
  __syncthreads();
}

/// By two warps a head, in one order.
template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::add_up(int first) {
  constexpr int kInFlight = 8, kAtOnce = kWarps / 2;  // pairs of parts; query heads
  const int all = min(kHeads, last_head_ - first + 1) * kQueries;
#pragma unroll 1
  for (int from = 0; from < all; from += kAtOnce) {
    const int i = from + warp_ / 2, g = i % kQueries, head = first + i / kQueries, place = head / kv_heads_;
    const int n = i < all && shared_.places[place].open() && g < group_ ? units_of_head(place) : 0;
    const float2* parts = unit_parts(head, g);
    Sum sum{kEmpty, 0};
#pragma unroll 1
    for (int at = (warp_ % 2 * 32 + lane_) * 2; at < n; at += 128 * kInFlight) {
      float2 part[2 * kInFlight];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) {
        const int pair = at + j * 128;
        const float4 two =
            pair < n ? __ldcg(reinterpret_cast<const float4*>(parts + pair)) : float4{kEmpty, 0, kEmpty, 0};
        part[2 * j] = {two.x, two.y};
        part[2 * j + 1] = pair + 1 < n ? float2{two.z, two.w} : float2{kEmpty, 0};
      }
      add_all(sum, part);
    }
    const float own = sum.m;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) sum.m = fmaxf(sum.m, __shfl_xor_sync(~0u, sum.m, o));
    sum.l *= exp2_fast(own - sum.m);
#pragma unroll
    for (int o = 1; o < 32; o *= 2) sum.l += __shfl_xor_sync(~0u, sum.l, o);
    if (lane_ == 0) shared_.half_sums[warp_] = {sum.m, sum.l};
    __syncthreads();
    if (i < all && warp_ % 2 == 0 && lane_ == 0) {
      const float2 other[] = {shared_.half_sums[warp_ + 1]};
      add_all(sum, other);
      const float share = a_.combine == Combine::mean ? static_cast<float>(group_) : 1.0f;
      const float log_sum = g < group_ ? sum.m + log2f(sum.l * share) : INFINITY;  // such a head has no probability
      shared_.log_sum[i / kQueries][g] = log_sum;
      // The same of all blocks.
      if (Kind == Keys::shares && n > 0) s_.log_sums[head * group_ + g] = log_sum;
      if (a_.sums != nullptr && n > 0) kept_sums(head)[g] = log_sum;
    }
    if (from + kAtOnce < all) __syncthreads();  // the halves have been read
  }
}

template <int K, int Quads, Keys Kind, bool Forms>
__device__ float* Scorer<K, Quads, Kind, Forms>::kept_sums(int head) const {
  return a_.sums + shared_.slots[head / kv_heads_] * a_.sums_stride + head % kv_heads_ * group_;
}

template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::take_sums(int first) const {
  const int all = min(kHeads, last_head_ - first + 1) * kQueries;
  for (int i = threadIdx.x; i < all; i += kThreads) {
    const int head = first + i / kQueries, g = i % kQueries;
    shared_.log_sum[i / kQueries][g] = g < group_ ? kept_sums(head)[g] : INFINITY;
  }
}

}  // namespace longhaul::cuda::labels
