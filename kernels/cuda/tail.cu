// What the labels say of the rows that a list leaves out: of their softmax's sum what the listed rows have not got, as
// attention that exact scores would give.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/select.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kQueries = 4;  // heads of a group at once

__device__ float sum_lanes(float x) {
#pragma unroll
  for (int o = 16; o > 0; o /= 2) x += __shfl_xor_sync(~0u, x, o);
  return x;
}

/// By a warp, for a query head whose listed rows have `listed` of its softmax.
__device__ float log_of_rest(const Selection& s, std::int64_t g, float listed) {
  constexpr float kLn2 = 0.6931471805599453f;
  const SelectArgs& a = s.a;
  const std::int64_t token = g / a.q_heads, h = g % a.q_heads / s.group;
  const int lane = threadIdx.x % 32, d = static_cast<int>(a.head_dim);
  const TailFit fit =
      tail_fit(a.labels.basis + a.batch.spans[token].slot * a.labels.basis_stride, a.kv_heads, d, a.labels.dims);
  float beside = 0;
  for (int c = lane; c < d; c += 32) {
    const std::int64_t at = token * a.q_stride + g % a.q_heads * d + c;
    const float q =
        a.act == DType::bf16 ? widen(static_cast<const bf16*>(a.q)[at]) : static_cast<const float*>(a.q)[at];
    beside += q * fit.beside[h * d + c];
  }
  const float sum = s.log_sums[g] - (a.combine == Combine::mean ? log2f(static_cast<float>(s.group)) : 0.0f);
  return (sum + log2f((1 - listed) * fit.weights[g % a.q_heads])) * kLn2 + sum_lanes(beside) * a.scale;
}

/// A block per token and KV head.
template <bool Codes>
__global__ void __launch_bounds__(kThreads) tail_of_list(const __grid_constant__ Selection s) {
  __shared__ float warp_sums[kWarps][kQueries];
  const SelectArgs& a = s.a;
  const std::int64_t head = blockIdx.x, place = head / a.kv_heads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = static_cast<int>(s.group);
  wait_for_previous();
  let_next_start();
  float* tail = a.out.tail + head * group;
  if (a.by != SelectBy::labels || !competition(a, place).open()) {
    if (static_cast<int>(threadIdx.x) < group) tail[threadIdx.x] = kNoTail;
    return;
  }
  const std::int32_t* rows = a.out.rows + head * a.out.stride;
  const int count = a.out.count[head] - a.batch.spans[place].window;
  const std::uint32_t* shares = s.shares + head * s.stride / 2 * group;
  for (int first = 0; first < group; first += kQueries) {
    float sums[kQueries] = {};
#pragma unroll 4
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const std::int64_t row = rows[i];
#pragma unroll
      for (int g = 0; g < kQueries; ++g) {
        if (first + g >= group) break;
        if constexpr (Codes) {
          const std::uint32_t pair = shares[row / 2 * group + first + g];
          sums[g] += __uint_as_float(row % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
        } else {
          const std::int64_t q = head * group + first + g;
          sums[g] += exp2_fast(s.work[q * s.stride + row] - s.log_sums[q]);
        }
      }
    }
#pragma unroll
    for (int g = 0; g < kQueries; ++g) {
      sums[g] = sum_lanes(sums[g]);
      if (lane == 0) warp_sums[warp][g] = sums[g];
    }
    __syncthreads();
    if (warp < min(kQueries, group - first)) {
      const std::int64_t g = head * group + first + warp;  // of all tokens' query heads
      const float listed = sum_lanes(warp_sums[lane][warp]) * (a.combine == Combine::mean ? group : 1);
      const float log = log_of_rest(s, g, listed);
      if (lane == 0) tail[first + warp] = isfinite(log) ? log : kNoTail;
    }
    __syncthreads();  // the sums have been read
  }
}

}  // namespace

void estimate_tail(const Selection& s, cudaStream_t stream) {
  const bool codes = s.a.by == SelectBy::labels && scores_fast(s);
  Launch{.grid = static_cast<unsigned>(s.heads()), .block = kThreads, .stream = stream, .overlap = true}(
      codes ? tail_of_list<true> : tail_of_list<false>, s);
}

}  // namespace longhaul::cuda
