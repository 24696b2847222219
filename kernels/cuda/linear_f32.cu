// linear for float32 activations: tiles of 64 x 64 in plain float32, weights widened as they are loaded. The
// correctness mode: no TF32, no library.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256, kTile = 64, kDepth = 16;

template <class Out>
__global__ void __launch_bounds__(kThreads) linear_tiles(const __grid_constant__ LinearArgs a) {
  __shared__ alignas(16) float x[kDepth][kTile + 4], w[kDepth][kTile + 4];
  const std::int64_t t0 = std::int64_t{blockIdx.y} * kTile, o0 = std::int64_t{blockIdx.x} * kTile;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float sum[4][4] = {};  // tokens ty * 4 + i, outputs tx * 4 + j
  for (std::int64_t k0 = 0; k0 < a.in; k0 += kDepth) {
    for (int item = threadIdx.x; item < kTile * kDepth; item += kThreads) {
      const int r = item / kDepth, c = item % kDepth;
      const std::int64_t t = t0 + r, o = o0 + r, k = k0 + c;
      x[c][r] = t < a.tokens && k < a.in ? static_cast<const float*>(a.x)[t * a.in + k] : 0.0f;
      w[c][r] = o < a.out_dim && k < a.in ? widen(a.w[o * a.in + k]) : 0.0f;
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
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const std::int64_t t = t0 + ty * 4 + i, o = o0 + tx * 4 + j;
      if (t >= a.tokens || o >= a.out_dim) continue;
      Out& out = static_cast<Out*>(a.out)[t * a.out_dim + o];
      const float y = a.bias == nullptr ? sum[i][j] : sum[i][j] + widen(a.bias[o]);
      out = narrow<Out>(a.accumulate ? widen(out) + y : y);
    }
}

}  // namespace

void linear_f32(const LinearArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  with_type(a.out_type, [&]<class Out>(Out) {
    Launch{
        .grid = {static_cast<unsigned>(ceil_div(a.out_dim, kTile)), static_cast<unsigned>(ceil_div(a.tokens, kTile))},
        .block = kThreads,
        .stream = stream}(linear_tiles<Out>, a);
  });
}

}  // namespace longhaul::cuda
