// What the labels say of the rows that a list leaves out: a softmax sums to one, so it is one less the listed rows'.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/select.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kQueries = 4;  // heads of a group at once

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
    if (static_cast<int>(threadIdx.x) < group) tail[threadIdx.x] = 0;
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
#pragma unroll
      for (int o = 16; o > 0; o /= 2) sums[g] += __shfl_xor_sync(~0u, sums[g], o);
      if (lane == 0) warp_sums[warp][g] = sums[g];
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < min(kQueries, group - first)) {
      float listed = 0;
      for (int w = 0; w < kWarps; ++w) listed += warp_sums[w][threadIdx.x];
      const float all = a.combine == Combine::mean ? 1.0f / static_cast<float>(group) : 1.0f;
      const float* weights = tail_weights(a.labels.basis + a.batch.spans[place].slot * a.labels.basis_stride,
                                          a.kv_heads, a.head_dim, a.labels.dims);
      const float weight = weights[head % a.kv_heads * group + first + threadIdx.x];
      tail[first + threadIdx.x] = listed > 0 ? weight * fmaxf(all / listed - 1, 0.0f) : 0.0f;
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
