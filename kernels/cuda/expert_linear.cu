// expert_linear: the products of a mixture of experts in one launch. A block has an expert and some of its outputs, and
// walks the expert's rows, whose number only the device knows, a tile at a time; an expert without rows costs the start
// of its blocks. A row's sums go over the inputs in one order, whatever rows share its tile: so a token's bits do not
// depend on the other tokens.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/tile_f32.cuh"
#include "kernels/cuda/tiles.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128, kOuts = 64, kDepth = 64, kStages = 4;
static_assert(kOuts == kF32Tile);    // one grid for both
constexpr int kChunks = kDepth / 8;  // of 16 bytes, of a row of a stage

/// The place of a row of x for a place in the grouped order.
__device__ std::int64_t row_of(const ExpertLinearArgs& a, int place) {
  return a.by_token ? a.routes.token[place] : place;
}

/// Chunks change places so that eight rows' same chunk lies in eight different banks' worth of memory.
__device__ std::uint32_t chunk_at(std::uint32_t tile, int row, int chunk) {
  return tile + static_cast<std::uint32_t>(row * kChunks + (chunk ^ (row & 7))) * 16;
}

/// bf16 on tensor cores. A warp has 16 outputs (the 16 rows of its products) by all kRows rows of x (their 8 columns).
template <int kRows>
__global__ void __launch_bounds__(kThreads) expert_tiles_bf16(const __grid_constant__ ExpertLinearArgs a) {
  constexpr int kStageBytes = (kOuts + kRows) * kDepth * 2, kTiles = kRows / 8;
  extern __shared__ uint4 shared[];
  const auto start = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int expert = static_cast<int>(blockIdx.y), in = static_cast<int>(a.in);
  const std::int64_t o0 = std::int64_t{blockIdx.x} * kOuts;
  const int end = a.routes.begin[expert + 1], steps = (in + kDepth - 1) / kDepth;
  const bf16* weights = a.w + expert * a.out_dim * a.in;
  for (int p0 = a.routes.begin[expert]; p0 < end; p0 += kRows) {
    auto ask = [&](int step) {
      const std::uint32_t w_tile = start + step % kStages * kStageBytes, x_tile = w_tile + kOuts * kDepth * 2;
      for (int item = static_cast<int>(threadIdx.x); item < (kOuts + kRows) * kChunks; item += kThreads) {
        const int r = item / kChunks, c = item % kChunks, k = step * kDepth + c * 8;
        if (r < kOuts) {
          const bool there = step < steps && k < in && o0 + r < a.out_dim;
          copy_async(chunk_at(w_tile, r, c), there ? weights + (o0 + r) * in + k : weights, there);
        } else {
          const int p = p0 + r - kOuts;
          const bool there = step < steps && k < in && p < end;
          const auto* x = static_cast<const bf16*>(a.x);
          copy_async(chunk_at(x_tile, r - kOuts, c), there ? x + row_of(a, p) * in + k : x, there);
        }
      }
      commit_async();
    };
    for (int step = 0; step < kStages - 1; ++step) ask(step);
    float sum[kTiles][4] = {};
    for (int step = 0; step < steps; ++step) {
      wait_async<kStages - 2>();
      __syncthreads();  // the stage is there for all, and the one before has been read
      ask(step + kStages - 1);
      const std::uint32_t w_tile = start + step % kStages * kStageBytes, x_tile = w_tile + kOuts * kDepth * 2;
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) {
        const auto u = load_matrices(chunk_at(w_tile, warp * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
        for (int n = 0; n < kTiles / 2; ++n) {
          const auto y = load_matrices(chunk_at(x_tile, n * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
          mma_bf16(sum[2 * n], u.v[0], u.v[1], u.v[2], u.v[3], y.v[0], y.v[1]);
          mma_bf16(sum[2 * n + 1], u.v[0], u.v[1], u.v[2], u.v[3], y.v[2], y.v[3]);
        }
      }
    }
    wait_async();
    __syncthreads();  // all has been read: the next rows may come
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int p = p0 + n * 8 + lane % 4 * 2 + i % 2;
        const std::int64_t o = o0 + warp * 16 + lane / 4 + i / 2 * 8;
        if (p < end && o < a.out_dim) static_cast<bf16*>(a.out)[p * a.out_dim + o] = narrow<bf16>(sum[n][i]);
      }
  }
}

/// float32 throughout, as linear_f32.
__global__ void __launch_bounds__(kF32TileThreads) expert_tiles_f32(const __grid_constant__ ExpertLinearArgs a) {
  const int expert = static_cast<int>(blockIdx.y), end = a.routes.begin[expert + 1];
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  const std::int64_t o0 = std::int64_t{blockIdx.x} * kF32Tile;
  for (int p0 = a.routes.begin[expert]; p0 < end; p0 += kF32Tile) {
    auto input = [&](int r, std::int64_t k) {
      const int p = p0 + r;
      return p < end && k < a.in ? static_cast<const float*>(a.x)[row_of(a, p) * a.in + k] : 0.0f;
    };
    float sum[4][4] = {};
    multiply_tile_f32(input, a.w + expert * a.out_dim * a.in, o0, a.out_dim, a.in, sum);
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) {
        const int p = p0 + ty * 4 + i;
        const std::int64_t o = o0 + tx * 4 + j;
        if (p < end && o < a.out_dim) static_cast<float*>(a.out)[p * a.out_dim + o] = sum[i][j];
      }
  }
}

}  // namespace

void expert_linear(const ExpertLinearArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  const dim3 grid{static_cast<unsigned>(ceil_div(a.out_dim, kOuts)), static_cast<unsigned>(a.routes.experts)};
  if (a.act == DType::f32) return Launch{.grid = grid, .block = kF32TileThreads, .stream = stream}(expert_tiles_f32, a);
  auto launch = [&]<int kRows>(std::integral_constant<int, kRows>) {
    Launch{.grid = grid,
           .block = kThreads,
           .shared_bytes = std::size_t{kStages} * (kOuts + kRows) * kDepth * 2,
           .stream = stream}(expert_tiles_bf16<kRows>, a);
  };
  // A token's sums are the same in both; few tokens leave few rows to an expert.
  if (a.tokens <= kDecodeTokens) launch(std::integral_constant<int, 16>{});
  else launch(std::integral_constant<int, 64>{});
}

}  // namespace longhaul::cuda
