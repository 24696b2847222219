// linear for at most kDecodeTokens tokens in bf16: the weights are read once, 16 bytes a lane, straight into the
// operands of tensor-core products (16 weight rows x 8 tokens), with the next step's loads in flight. Eight warps share
// a block's rows and split the sums: warp w takes the stretches w, w + 8, ... of 128 weights, and the eight parts are
// added in order. So a token's bits depend neither on the other tokens nor on how many they are.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kStretch = 128;  // weights of a row that one warp takes in turn
constexpr int kTileRows = 16, kTileTokens = 8, kSegment = 32;

/// Past the first-level cache, which is left to x.
__device__ uint4 load_weights(const bf16* at) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(at));
  return x;
}

constexpr int blocks_per_processor(int token_tiles) { return token_tiles <= 2 ? 2 : 1; }

template <class Out, int kTokenTiles, int kRowTiles>
__global__ void __launch_bounds__(kThreads, blocks_per_processor(kTokenTiles))
    linear_rows(const __grid_constant__ LinearArgs a) {
  constexpr int kSegments = 4 / kRowTiles;  // of a step
  constexpr int kSteps = kStretch / (kSegment * kSegments), kRows = kTileRows * kRowTiles;
  __shared__ float parts[kWarps][kTokenTiles * kTileTokens][kTileRows + 1];
  const int warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 8;
  const auto in = static_cast<int>(a.in), tokens = static_cast<int>(a.tokens);
  const std::int64_t blocks = (a.out_dim + kRows - 1) / kRows;
  const int steps = (in + kStretch * kWarps - 1) / (kStretch * kWarps) * kSteps;  // of a block of rows

  uint4 next[kRowTiles][kSegments][2];
  auto place = [&](int step, int segment) {
    return (step / kSteps * kWarps + warp) * kStretch + (step % kSteps * kSegments + segment) * kSegment + column;
  };
  auto load_step = [&](std::int64_t block, int step) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (int s = 0; s < kSegments; ++s)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const std::int64_t o = block * kRows + r * kTileRows + half * 8 + row;
          const int k = place(step, s);
          next[r][s][half] = k < in && o < a.out_dim ? load_weights(a.w + o * in + k) : uint4{};
        }
  };
  std::int64_t block = blockIdx.x;
  load_step(block, 0);
  wait_for_previous();
  let_next_start();

  float sum[kRowTiles][kTokenTiles][4] = {};
  for (int step = 0; block < blocks;) {
    uint4 w[kRowTiles][kSegments][2];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (int s = 0; s < kSegments; ++s)
#pragma unroll
        for (int half = 0; half < 2; ++half) w[r][s][half] = next[r][s][half];
    const bool last = step + 1 == steps;
    const std::int64_t coming = last ? block + gridDim.x : block;
    if (coming < blocks) load_step(coming, last ? 0 : step + 1);
#pragma unroll
    for (int s = 0; s < kSegments; ++s) {
      uint4 x[kTokenTiles];
      const int k = place(step, s);
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t) {
        const int token = t * kTileTokens + row;
        x[t] = k < in && token < tokens
                   ? *reinterpret_cast<const uint4*>(static_cast<const bf16*>(a.x) + std::int64_t{token} * in + k)
                   : uint4{};
      }
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
        for (int t = 0; t < kTokenTiles; ++t) {
          // Which 16 weights a lane's words stand for does not matter, as long as weights and tokens agree.
          const uint4 u = w[r][s][0], v = w[r][s][1];
          mma_bf16(sum[r][t], u.x, v.x, u.y, v.y, x[t].x, x[t].y);
          mma_bf16(sum[r][t], u.z, v.z, u.w, v.w, x[t].z, x[t].w);
        }
    }
    if (!last) {
      ++step;
      continue;
    }

    const int pair = threadIdx.x % 4 * 2;  // of a lane's sums: rows row, row + 8; tokens pair, pair + 1
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          parts[warp][t * kTileTokens + pair + i % 2][row + i / 2 * 8] = sum[r][t][i];
          sum[r][t][i] = 0;
        }
      __syncthreads();
      for (int item = threadIdx.x; item < tokens * kTileRows; item += kThreads) {
        const int t = item / kTileRows, i = item % kTileRows;
        const std::int64_t o = block * kRows + r * kTileRows + i;
        if (o >= a.out_dim) continue;
        float y = parts[0][t][i];
#pragma unroll
        for (int p = 1; p < kWarps; ++p) y += parts[p][t][i];
        Out& out = static_cast<Out*>(a.out)[t * a.out_dim + o];
        out = narrow<Out>(a.accumulate ? widen(out) + y : y);
      }
      __syncthreads();
    }
    block = coming;
    step = 0;
  }
}

}  // namespace

bool linear_few(const LinearArgs& a, int processors, cudaStream_t stream) {
  if (a.tokens > kDecodeTokens || a.in % 8 != 0) return false;
  auto launch = [&]<int kTokenTiles, int kRowTiles>(std::integral_constant<int, kTokenTiles>,
                                                    std::integral_constant<int, kRowTiles>) {
    with_type(a.out_type, [&]<class Out>(Out) {
      const std::int64_t blocks = ceil_div(a.out_dim, kTileRows * kRowTiles),
                         most = blocks_per_processor(kTokenTiles) * processors;
      Launch{.grid = static_cast<unsigned>(blocks < most ? blocks : most),
             .block = kThreads,
             .stream = stream,
             .overlap = true}(linear_rows<Out, kTokenTiles, kRowTiles>, a);
    });
  };
  constexpr std::integral_constant<int, 1> one;
  constexpr std::integral_constant<int, 2> two;
  constexpr std::integral_constant<int, 4> four;
  constexpr std::integral_constant<int, 8> eight;
  if (a.tokens <= 8) launch(one, one);
  else if (a.tokens <= 16) launch(two, one);
  else if (a.tokens <= 32) launch(four, two);
  else launch(eight, two);
  return true;
}

}  // namespace longhaul::cuda
