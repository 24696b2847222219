// The float32 product of a tile of rows with a tile of weights, as linear_f32 and expert_linear walk them: 16 x 16
// threads of 4 x 4 results, weights widened as they are loaded, sums over the inputs in one order.
#pragma once
#include "kernels/base/types.h"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {

constexpr int kF32TileThreads = 256, kF32Tile = 64;

/// input(r, k): input k of row r of the tile, 0 past its rows and inputs. `weights`: [out_dim, in], outputs from o0 on.
/// To sum: of this thread rows ty * 4 + i and outputs o0 + tx * 4 + j, tx = thread % 16, ty = thread / 16.
template <class Input>
__device__ void multiply_tile_f32(Input input, const bf16* weights, std::int64_t o0, std::int64_t out_dim,
                                  std::int64_t in, float (&sum)[4][4]) {
  constexpr int kDepth = 16;
  __shared__ alignas(16) float x[kDepth][kF32Tile + 4], w[kDepth][kF32Tile + 4];
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  for (std::int64_t k0 = 0; k0 < in; k0 += kDepth) {
    for (int item = threadIdx.x; item < kF32Tile * kDepth; item += kF32TileThreads) {
      const int r = item / kDepth, c = item % kDepth;
      const std::int64_t o = o0 + r, k = k0 + c;
      x[c][r] = input(r, k);
      w[c][r] = o < out_dim && k < in ? widen(weights[o * in + k]) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kDepth; ++c) {
      const auto u = load<4>(&x[c][ty * 4]), v = load<4>(&w[c][tx * 4]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] += u.v[i] * v.v[j];
    }
    __syncthreads();
  }
}

}  // namespace longhaul::cuda
