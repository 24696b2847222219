// mean_values: a block has 16 elements of a KV head's values, a sector of memory of each row.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 512, kLanes = 2, kRows = kThreads / kLanes;  // rows at once

template <class T>
__global__ void __launch_bounds__(kThreads) mean_of_rows(const __grid_constant__ MeanValuesArgs a) {
  __shared__ float sums[kRows][kLanes * 8 + 1];
  const int d = static_cast<int>(a.head_dim), lane = threadIdx.x % kLanes, sub = threadIdx.x / kLanes;
  const int column = static_cast<int>(blockIdx.y) * kLanes * 8 + lane * 8;
  const T* values = reinterpret_cast<const T*>(a.kv.data + blockIdx.x * a.kv.head_stride) + d + column;
  Pack<float, 8> sum = {};
  if (column < d) {
#pragma unroll 4
    for (std::int64_t row = sub; row < a.kv.rows; row += kRows) {
      const auto x = load<8>(values + row * 2 * d);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum.v[j] += x.v[j];
    }
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) sums[sub][lane * 8 + j] = sum.v[j];
  for (int half = kRows / 2; half > 0; half /= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < half * kLanes * 8; i += kThreads)
      sums[i / (kLanes * 8)][i % (kLanes * 8)] += sums[i / (kLanes * 8) + half][i % (kLanes * 8)];
  }
  __syncthreads();
  const int at = static_cast<int>(blockIdx.y) * kLanes * 8 + static_cast<int>(threadIdx.x);
  if (threadIdx.x < kLanes * 8 && at < d)
    a.out[blockIdx.x * d + at] = sums[0][threadIdx.x] / static_cast<float>(a.kv.rows);
}

}  // namespace

void mean_values(const MeanValuesArgs& a, cudaStream_t stream) {
  if (a.kv_heads == 0) return;
  with_type(a.act, [&]<class T>(T) {
    Launch{.grid = {static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(ceil_div(a.head_dim, kLanes * 8))},
           .block = kThreads,
           .stream = stream}(mean_of_rows<T>, a);
  });
}

}  // namespace longhaul::cuda
