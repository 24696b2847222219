// A query in the basis of the labels, as the integers that its products with codes are made from. Device code only.
#pragma once
#include "kernels/cuda/label_scorer.cuh"

namespace longhaul::cuda::labels {

template <int K, int Quads>
__device__ void Scorer<K, Quads>::weigh(int first) {
  const int d = static_cast<int>(a_.head_dim), dims = static_cast<int>(a_.labels.dims);
  const int heads = min(kHeads, last_head_ - first + 1), rows = heads * dims;
  __syncthreads();
#pragma unroll 2
  for (int i = threadIdx.x; i < heads * kQueries * d; i += kThreads) {
    const int h = i / (kQueries * d), g = i / d % kQueries, c = i % d, head = first + h;
    const std::int64_t at = head / kv_heads_ * a_.q_stride + (head % kv_heads_ * group_ + g) * d + c;
    float x = 0;
    if (g < group_)
      x = a_.act == DType::bf16 ? widen(static_cast<const bf16*>(a_.q)[at]) : static_cast<const float*>(a_.q)[at];
    shared_.q[h][g][c] = x * a_.scale;
  }
  __syncthreads();
  constexpr int kLanes = 8, kAtOnce = 32 / kLanes;  // of a map's row; rows of a warp
#pragma unroll 1
  for (int from = warp_ * kAtOnce; from < rows; from += kWarps * kAtOnce) {
    const int row = min(from + lane_ / kLanes, rows - 1), h = row / dims, j = row % dims;
    const float* basis = basis_of(first + h);
    const float* map = basis + (dims + j) * d;
    const float step = basis[2 * dims * d + dims + j];
    float sum[kQueries] = {};
#pragma unroll 4
    for (int c = lane_ % kLanes * 2; c < d; c += kLanes * 2) {
      const float2 m = *reinterpret_cast<const float2*>(map + c);
#pragma unroll
      for (int g = 0; g < kQueries; ++g) {
        const float2 q = *reinterpret_cast<const float2*>(&shared_.q[h][g][c]);
        sum[g] += m.x * q.x + m.y * q.y;
      }
    }
#pragma unroll
    for (int g = 0; g < kQueries; ++g) {
#pragma unroll
      for (int o = kLanes / 2; o > 0; o /= 2) sum[g] += __shfl_xor_sync(~0u, sum[g], o);
      if (lane_ % kLanes == 0) shared_.weights[h][g][j] = sum[g] * step;
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int i = warp_; i < heads * kQueries; i += kWarps) slice(i / kQueries, i % kQueries);
  __syncthreads();
}

template <int K, int Quads>
__device__ const float* Scorer<K, Quads>::basis_of(int head) const {
  return a_.labels.basis + shared_.slots[head / kv_heads_] * a_.labels.basis_stride +
         head % kv_heads_ * label_basis_floats(a_.labels.dims, a_.head_dim);
}

template <int K, int Quads>
__device__ void Scorer<K, Quads>::slice(int h, int g) {
  const int dims = static_cast<int>(a_.labels.dims);
  float w[K], top = 0;
  bool finite = true;
  for (int k = 0; k < K; ++k) {
    const int j = k * 32 + lane_;
    w[k] = j < dims && g < group_ ? shared_.weights[h][g][j] : 0.0f;
    top = fmaxf(top, fabsf(w[k]));
    finite = finite && isfinite(w[k]);
  }
#pragma unroll
  for (int o = 16; o > 0; o /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
  finite = __all_sync(~0u, finite);
  const int exponent = finite && top > 0 ? ilogbf(top) + 1 : 0;  // top < 2^exponent
  const int bits = 8 * kSlices - 2;
  for (int k = 0; k < K; ++k) {
    int rest = finite ? static_cast<int>(rintf(ldexpf(w[k], bits - exponent))) : 0;
    std::uint32_t bytes = 0;
#pragma unroll
    for (int i = 0; i < kSlices; ++i) {
      const int digit = static_cast<std::int8_t>(rest & 255);
      bytes |= static_cast<std::uint32_t>(digit & 255) << (8 * i);
      rest = (rest - digit) >> 8;
    }
    shared_.slices[h][g][k * 32 + lane_] = bytes;
  }
  const float unit = ldexpf(1, exponent - bits);
  if (lane_ == 0) shared_.factor[h][g] = !finite ? NAN : s_.softmax ? unit * kLog2e : unit;
}

template <int K, int Quads>
__device__ Weights<K, Quads> Scorer<K, Quads>::weights_of(int h) const {
  Weights<K, Quads> w;
  const int column = lane_ / 4, j = lane_ % 4;
#pragma unroll
  for (int n = 0; n < Quads; ++n) {
    w.factor[n][0] = shared_.factor[h][n * 4 + j];
    w.factor[n][1] = w.factor[n][0] * 0.0625f;
    w.log_sum[n] = shared_.log_sum[h][n * 4 + j];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int shift = 8 * (kSlices - 1 - 2 * t - column % 2);
#pragma unroll
      for (int k = 0; k < K; ++k)
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          const std::uint32_t* from = &shared_.slices[h][n * 4 + column / 2][k * 32 + part * 16 + 2 * j];
          w.b[n][t][k][part] = (from[0] >> shift & 255) | (from[1] >> shift & 255) << 8 |
                               (from[8] >> shift & 255) << 16 | (from[9] >> shift & 255) << 24;
        }
    }
  }
  return w;
}

}  // namespace longhaul::cuda::labels
