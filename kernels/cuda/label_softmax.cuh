// The sum of each query head's softmax over label scores: by unit, by group of units, then of all, always in one order.
// Device code only.
#pragma once
#include "kernels/cuda/label_scorer.cuh"

namespace longhaul::cuda::labels {

/// Blocks that have come to a barrier, and barriers that all have come to: launches differ in their blocks.
static __device__ unsigned arrived_blocks, barriers;

template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::sum_up(Sums& x) {
  const int rows = rows_from(at_), head = head_of(at_);
  if (rows < kUnitRows) {
#pragma unroll
    for (int b = 0; b < S::kUnitBlocks; ++b)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int row = b * kBlockRows + i / 2 % 2 * 32 + i / 4 * 16 + lane_ / 4 * 2 + i % 2;
#pragma unroll
        for (int n = 0; n < Quads; ++n)
          if (row >= rows) x[b][n][i] = -INFINITY;
      }
  }
#pragma unroll
  for (int n = 0; n < Quads; ++n) {
    const float factor = factor_[n], high_factor = factor * 0.0625f;
    float low = -INFINITY, high = -INFINITY;
#pragma unroll
    for (int b = 0; b < S::kUnitBlocks; ++b)
#pragma unroll
      for (int i = 0; i < 8; ++i) (i & 2 ? high : low) = fmaxf(i & 2 ? high : low, x[b][n][i]);
    float top = fmaxf(low, high * 0.0625f);
#pragma unroll
    for (int o = 4; o < 32; o *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
    top *= factor;
    float part[4] = {};
#pragma unroll
    for (int b = 0; b < S::kUnitBlocks; ++b)
#pragma unroll
      for (int i = 0; i < 8; ++i) part[i % 4] += exp2_fast(fmaf(x[b][n][i], i & 2 ? high_factor : factor, -top));
    float sum = (part[0] + part[1]) + (part[2] + part[3]);
#pragma unroll
    for (int o = 4; o < 32; o *= 2) sum += __shfl_xor_sync(~0u, sum, o);
    if (const int g = n * 4 + lane_; lane_ < 4 && g < group_)
      unit_parts(head, g)[at_.index] = {Forms ? top + offset_[n] : top, sum};
  }
}

template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::join_groups() const {
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < groups_ * group_; i += kThreads) {
    const Unit u = search((first_group_ + i / group_) * S::kGroupUnits);
    const float2* parts = unit_parts(head_of(u), i % group_) + u.index;
    const int units = (rows_from(u) + kUnitRows - 1) / kUnitRows;
    float2 part[S::kGroupUnits];
#pragma unroll
    for (int j = 0; j < S::kGroupUnits; ++j) part[j] = j < units ? __ldcg(parts + j) : make_float2(kEmpty, 0);
    Sum sum{kEmpty, 0};
    add_all(sum, part);
    group_parts(head_of(u), i % group_)[u.index / S::kGroupUnits] = {sum.m, sum.l};
  }
}

/// Until all blocks are here. They all run: one fits a processor, there are no more of them, and whatever runs beside
/// them (products, where look-ahead selects exactly) ends by itself. No other kernel uses the count, and no other that
/// waits so may run at the same time.
template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::wait_for_all() const {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    auto passed = [] {
      unsigned count;
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(&barriers) : "memory");
      return count;
    };
    const unsigned before = passed();  // none is passed while this block has not come
    if (atomicInc(&arrived_blocks, gridDim.x - 1) == gridDim.x - 1) {
      __threadfence();
      atomicAdd(&barriers, 1);
    } else {
      while (passed() == before) {
      }
    }
    __threadfence();
  }
  __syncthreads();
}

template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::add_up(int first) {
  constexpr int kInFlight = 8;
  const int all = min(kHeads, last_head_ - first + 1) * kQueries;
#pragma unroll 1
  for (int i = warp_; i < all; i += kWarps) {
    const int head = first + i / kQueries, g = i % kQueries, place = head / kv_heads_;
    const int n = shared_.places[place].open() && g < group_ ? groups_of_head(place) : 0;
    const float2* parts = group_parts(head, g);
    Sum sum{kEmpty, 0};
#pragma unroll 1
    for (int from = lane_; from < n; from += 32 * kInFlight) {
      float2 part[kInFlight];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j)
        part[j] = from + j * 32 < n ? __ldcg(parts + from + j * 32) : make_float2(kEmpty, 0);
      add_all(sum, part);
    }
    const float own = sum.m;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) sum.m = fmaxf(sum.m, __shfl_xor_sync(~0u, sum.m, o));
    sum.l *= exp2_fast(own - sum.m);
#pragma unroll
    for (int o = 1; o < 32; o *= 2) sum.l += __shfl_xor_sync(~0u, sum.l, o);
    const float share = a_.combine == Combine::mean ? static_cast<float>(group_) : 1.0f;
    const float log_sum = g < group_ ? sum.m + log2f(sum.l * share) : INFINITY;  // such a head has no probability
    if (lane_ == 0) shared_.log_sum[i / kQueries][g] = log_sum;
    if (lane_ != 0 || n == 0) continue;
    // The same of all blocks.
    if (Kind == Keys::shares) s_.log_sums[head * group_ + g] = log_sum;
    if (a_.sums != nullptr && g < group_) kept_sums(head)[g] = log_sum;
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
