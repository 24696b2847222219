// The sum of each query head's softmax over label scores: by unit, by group of units, then of all, always in one order.
// Device code only.
#pragma once
#include "kernels/cuda/label_scorer.cuh"

namespace longhaul::cuda::labels {

template <int K, int Quads>
__device__ void Scorer<K, Quads>::sum_up(int first) {
  Weights<K, Quads> w{};
  int current = -1;
  each_unit(first, [&](const Unit& u, const std::byte* codes) {
    const int head = head_of(u), tail = shared_.places[u.place].tail;
    if (head != current) w = weights_of(head - first), current = head;
    Sums sums;
    bool careful = (u.index + 1) * kUnitRows > tail;
    if (!careful) {
      sums = sum_unit(codes, w);
      bool fine = true;  // no sum is beyond float's range, or not a number
#pragma unroll
      for (int n = 0; n < Quads; ++n) fine = fine && sums.l[n] < 0x1p100f;
      careful = !__all_sync(~0u, fine);
    }
    if (careful) sums = sum_unit_carefully(codes, w, tail - u.index * kUnitRows);
#pragma unroll
    for (int n = 0; n < Quads; ++n) {
      float m = sums.m[n], l = sums.l[n];
#pragma unroll
      for (int o = 4; o < 32; o *= 2) add(m, l, __shfl_xor_sync(~0u, m, o), __shfl_xor_sync(~0u, l, o));
      const int g = n * 4 + lane_ % 4;
      if (lane_ < 4 && g < group_) unit_parts(head, g)[u.index] = {m, l};
    }
  });
}

template <int K, int Quads>
__device__ typename Scorer<K, Quads>::Sums Scorer<K, Quads>::sum_unit(const std::byte* codes,
                                                                      const Weights<K, Quads>& w) const {
  Sums s;
  float more[Quads];
#pragma unroll 1
  for (int b = 0; b < kUnitBlocks; ++b) {
    float sum[Quads][8];
    sum_block<K, Quads>(codes + b * block_bytes_, w, sum);
#pragma unroll
    for (int n = 0; n < Quads; ++n) {
      if (b == 0) {
        s.m[n] = kEmpty, s.l[n] = more[n] = 0;
#pragma unroll
        for (int v = 0; v < 8; ++v) s.m[n] = fmaxf(s.m[n], sum[n][v] * w.factor[n][v / 2 % 2]);
      }
#pragma unroll
      for (int v = 0; v < 8; v += 2) {
        s.l[n] += exp2_fast(fmaf(sum[n][v], w.factor[n][v / 2 % 2], -s.m[n]));
        more[n] += exp2_fast(fmaf(sum[n][v + 1], w.factor[n][v / 2 % 2], -s.m[n]));
      }
    }
  }
#pragma unroll
  for (int n = 0; n < Quads; ++n) s.l[n] += more[n];
  return s;
}

template <int K, int Quads>
__device__ typename Scorer<K, Quads>::Sums Scorer<K, Quads>::sum_unit_carefully(const std::byte* codes,
                                                                                const Weights<K, Quads>& w,
                                                                                int rows) const {
  Sums s;
#pragma unroll
  for (int n = 0; n < Quads; ++n) s.m[n] = kEmpty, s.l[n] = 0;
#pragma unroll 1
  for (int b = 0; b < kUnitBlocks && b * kBlockRows < rows; ++b) {
    float sum[Quads][8];
    sum_block<K, Quads>(codes + b * block_bytes_, w, sum);
#pragma unroll
    for (int n = 0; n < Quads; ++n) {
      float to = s.m[n], l = 0;
#pragma unroll
      for (int v = 0; v < 8; ++v) {
        sum[n][v] = b * kBlockRows + row_in_block(v) < rows ? sum[n][v] * w.factor[n][v / 2 % 2] : -INFINITY;
        to = fmaxf(to, sum[n][v]);
      }
#pragma unroll
      for (int v = 0; v < 8; ++v) l += exp2_fast(sum[n][v] - to);
      s.l[n] = s.l[n] * exp2_fast(s.m[n] - to) + l;
      s.m[n] = to;
    }
  }
  return s;
}

template <int K, int Quads>
__device__ void Scorer<K, Quads>::add(float& m, float& l, float their_m, float their_l) {
  const float to = fmaxf(m, their_m);
  l = l * exp2_fast(m - to) + their_l * exp2_fast(their_m - to);
  m = to;
}

template <int K, int Quads>
__device__ void Scorer<K, Quads>::join_groups() const {
  __syncthreads();
  for (int i = threadIdx.x; i < groups_ * group_; i += kThreads) {
    const Unit u = locate((first_group_ + i / group_) * kGroupUnits);
    const float2* parts = unit_parts(head_of(u), i % group_) + u.index;
    float2 part[kGroupUnits];
#pragma unroll
    for (int j = 0; j < kGroupUnits; ++j)
      part[j] = u.index + j < units_of_head(u.place) ? __ldcg(parts + j) : make_float2(kEmpty, 0);
    float m = kEmpty, l = 0;
#pragma unroll
    for (int j = 0; j < kGroupUnits; ++j) add(m, l, part[j].x, part[j].y);
    group_parts(head_of(u), i % group_)[u.index / kGroupUnits] = {m, l};
  }
}

template <int K, int Quads>
__device__ void Scorer<K, Quads>::add_up(int first) {
  constexpr int kInFlight = 8;
  const int all = min(kHeads, last_head_ - first + 1) * kQueries;
#pragma unroll 1
  for (int i = warp_; i < all; i += kWarps) {
    const int head = first + i / kQueries, g = i % kQueries, place = head / kv_heads_;
    const int n = shared_.places[place].open() && g < group_ ? groups_of_head(place) : 0;
    const float2* parts = group_parts(head, g);
    float m = kEmpty, l = 0;
#pragma unroll 1
    for (int from = lane_; from < n; from += 32 * kInFlight) {
      float2 part[kInFlight];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j)
        part[j] = from + j * 32 < n ? __ldcg(parts + from + j * 32) : make_float2(kEmpty, 0);
      float to = m, sum = 0;
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) to = fmaxf(to, part[j].x);
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) sum += part[j].y * exp2_fast(part[j].x - to);
      l = l * exp2_fast(m - to) + sum;
      m = to;
    }
    float top = m;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
    l *= exp2_fast(m - top);
#pragma unroll
    for (int o = 1; o < 32; o *= 2) l += __shfl_xor_sync(~0u, l, o);
    const float share = a_.combine == Combine::mean ? static_cast<float>(group_) : 1.0f;
    if (lane_ == 0)  // a head that there is not has no probability
      shared_.log_sum[i / kQueries][g] = g < group_ ? top + log2f(l * share) : INFINITY;
  }
}

}  // namespace longhaul::cuda::labels
