// The sum of each query head's softmax over label scores: by unit, by group of units, then of all, always in one order.
// Device code only.
#pragma once
#include "kernels/cuda/label_scorer.cuh"

namespace longhaul::cuda::labels {

template <int K, int Quads, Keys Kind>
__device__ void Scorer<K, Quads, Kind>::sum_up(const Scores& x) {
  if (visit_ == units_ - kSlots - 1) hold(x);
  const int rows = rows_from(at_), head = head_of(at_);
  float m[kQueries], l[kQueries];
#pragma unroll
  for (int g = 0; g < kQueries; ++g) m[g] = kEmpty, l[g] = 0;
#pragma unroll
  for (int r = 0; r < kPerLane; ++r)
    if (r * 32 + lane_ < rows)
#pragma unroll
      for (int g = 0; g < kQueries; ++g) m[g] = fmaxf(m[g], x[r][g]);
#pragma unroll
  for (int g = 0; g < kQueries; ++g) m[g] = turned(__reduce_max_sync(~0u, turned(m[g])));
#pragma unroll
  for (int r = 0; r < kPerLane; ++r)
    if (r * 32 + lane_ < rows)
#pragma unroll
      for (int g = 0; g < kQueries; ++g) l[g] += exp2_fast(x[r][g] - m[g]);
#pragma unroll
  for (int n = 0; n < Quads; ++n) {  // over the lanes; each is left with one head of each quad
    auto halved = [&](bool upper, int o, float low, float high) {
      return (upper ? high : low) + __shfl_xor_sync(~0u, upper ? low : high, o);
    };
    const float *of = l + n * 4, *top = m + n * 4;
    const bool upper = lane_ & 16, odd = lane_ & 8;
    float sum = halved(odd, 8, halved(upper, 16, of[0], of[2]), halved(upper, 16, of[1], of[3]));
#pragma unroll
    for (int o = 4; o > 0; o /= 2) sum += __shfl_xor_sync(~0u, sum, o);
    const int g = n * 4 + lane_ / 16 * 2 + lane_ / 8 % 2;
    const float most = upper ? (odd ? top[3] : top[2]) : (odd ? top[1] : top[0]);
    if (lane_ % 8 == 0 && g < group_) unit_parts(head, g)[at_.index] = {most, sum};
  }
}

template <int K, int Quads, Keys Kind>
__device__ void Scorer<K, Quads, Kind>::join_groups() const {
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
#pragma unroll
    for (int j = 0; j < S::kGroupUnits; ++j) sum.add({part[j].x, part[j].y});
    group_parts(head_of(u), i % group_)[u.index / S::kGroupUnits] = {sum.m, sum.l};
  }
}

/// Until all blocks have left their sums. They all run: one fits a processor, and there are no more of them.
template <int K, int Quads, Keys Kind>
__device__ void Scorer<K, Quads, Kind>::wait_for_all() const {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    std::uint32_t* arrived = &s_.tallies[0].scored_blocks;
    std::uint32_t there = atomicAdd(arrived, 1u) + 1;
    while (there < gridDim.x)
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(there) : "l"(arrived) : "memory");
    __threadfence();
  }
  __syncthreads();
}

template <int K, int Quads, Keys Kind>
__device__ void Scorer<K, Quads, Kind>::add_up(int first) {
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
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) sum.add({part[j].x, part[j].y});
    }
#pragma unroll
    for (int o = 1; o < 32; o *= 2) sum.add({__shfl_xor_sync(~0u, sum.m, o), __shfl_xor_sync(~0u, sum.l, o)});
    const float share = a_.combine == Combine::mean ? static_cast<float>(group_) : 1.0f;
    const float log_sum = g < group_ ? sum.m + log2f(sum.l * share) : INFINITY;  // such a head has no probability
    if (lane_ == 0) shared_.log_sum[i / kQueries][g] = log_sum;
    if (Kind == Keys::shares && lane_ == 0 && n > 0)
      s_.log_sums[head * group_ + g] = log_sum;  // the same of all blocks
  }
}

}  // namespace longhaul::cuda::labels
