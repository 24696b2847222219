// Queries in the basis of the labels, as the operands that their products with codes take. Device code only.
#pragma once
#include <cuda_fp16.h>

#include "kernels/cuda/label_products.cuh"
#include "kernels/cuda/labels.cuh"
#include "kernels/cuda/overlap.cuh"

namespace longhaul::cuda::labels {

constexpr int kWeighThreads = 256;

/// Weights as two halves each, the largest of a query just below 2^15 units, and the unit; zeros and not a number where
/// a weight is not finite. By a warp.
template <int K, int Quads>
__device__ void split_weights(const Selection& s, const float* weights, int g, HeadWeights& out) {
  const int lane = threadIdx.x % 32;
  float w[K], top = 0;
  bool finite = true;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    w[k] = weights[k * 32 + lane];
    top = fmaxf(top, fabsf(w[k]));
    finite = finite && fabsf(w[k]) < 0x1p110f;
  }
#pragma unroll
  for (int o = 16; o > 0; o /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
  finite = __all_sync(~0u, finite);
  const int exponent = finite && top > 0 ? ilogbf(top) + 1 : 0;  // top < 2^exponent
  auto* halves = reinterpret_cast<__half*>(out.b);
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const float x = finite ? ldexpf(w[k], kWeightExponent - exponent) : 0.0f;
    const __half high = __float2half_rn(x), low = __float2half_rn(x - __half2float(high));
    const int step = 2 * k + lane / 16, part = lane / 8 % 2, column = g % 4 * 2;
    const int word = (g / 4 * Shape<K, Quads>::kSteps + step) * 2 + part;
    auto at = [&](int c) { return ((c * 4 + lane % 8 / 2) * Shape<K, Quads>::kWords + word) * 2 + lane % 2; };
    halves[at(column)] = high;
    halves[at(column + 1)] = low;
  }
  const float unit = ldexpf(1, exponent - kWeightExponent + kCodeExponent);
  if (lane == 0) out.factor[g] = !finite ? NAN : s.softmax ? unit * kLog2e : unit;
}

/// A block per token and KV head. Also clears what is counted of its keys.
template <int K, int Quads>
__global__ void __launch_bounds__(kWeighThreads) weigh_queries(const __grid_constant__ Selection s) {
  constexpr int kQueries = Shape<K, Quads>::kQueries, kDims = 32 * K;
  constexpr int kLanes = 8, kPairs = 256 / 2 / kLanes;  // of a map's row; of two elements, a lane's
  __shared__ alignas(16) float q[kQueries][256];
  __shared__ float weights[kQueries][kDims];
  let_next_start();
  const SelectArgs& a = s.a;
  const int t = static_cast<int>(threadIdx.x), head = static_cast<int>(blockIdx.x);
  const int place = head / static_cast<int>(a.kv_heads), h = head % static_cast<int>(a.kv_heads);
  const int d = static_cast<int>(a.head_dim), dims = static_cast<int>(a.labels.dims), group = static_cast<int>(s.group);
  const LabelBasis basis = basis_of(a.labels, a.batch.spans[place].slot, h, d);
  float2 map[K][kPairs];  // the basis is older than all that may still run
  float step[K];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int j = k * 32 + t / kLanes;
    step[k] = j < dims ? basis.step[j] : 0.0f;
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      const int c = (p * kLanes + t % kLanes) * 2;
      map[k][p] = j < dims && c < d ? *reinterpret_cast<const float2*>(basis.query_map + j * d + c) : float2{0, 0};
    }
  }
  wait_for_previous();

  for (int g = t / 32; g < kQueries; g += kWeighThreads / 32) {
    const std::int64_t at = place * a.q_stride + static_cast<std::int64_t>(h * group + g) * d;
    for (int c = t % 32; c < 256; c += 32) {
      float x = 0;
      if (g < group && c < d)
        x = a.act == DType::bf16 ? widen(static_cast<const bf16*>(a.q)[at + c])
                                 : static_cast<const float*>(a.q)[at + c];
      q[g][c] = x * a.scale;
    }
  }
  HeadTally& tally = s.tallies[head];
  for (int i = t; i < kDigitBins / 4; i += kWeighThreads) reinterpret_cast<uint4*>(tally.counts)[i] = {0, 0, 0, 0};
  if (t == 0) tally.listed_parts = tally.scored_blocks = 0;
  __syncthreads();
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
    float sum[K] = {};
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      const float2 x = *reinterpret_cast<const float2*>(&q[g][(p * kLanes + t % kLanes) * 2]);
#pragma unroll
      for (int k = 0; k < K; ++k) sum[k] = fmaf(map[k][p].y, x.y, fmaf(map[k][p].x, x.x, sum[k]));
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int o = kLanes / 2; o > 0; o /= 2) sum[k] += __shfl_xor_sync(~0u, sum[k], o);
      if (t % kLanes == 0) weights[g][k * 32 + t / kLanes] = sum[k] * step[k];
    }
  }
  __syncthreads();
  for (int g = t / 32; g < kQueries; g += kWeighThreads / 32)
    split_weights<K, Quads>(s, weights[g], g, s.weights[head]);
}

}  // namespace longhaul::cuda::labels
