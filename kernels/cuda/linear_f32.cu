// linear for float32 activations: tiles of 64 x 64 in plain float32, weights widened as they are loaded. The
// correctness mode: no TF32, no library.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/tile_f32.cuh"

namespace longhaul::cuda {
namespace {

template <class Out>
__global__ void __launch_bounds__(kF32TileThreads) linear_tiles(const __grid_constant__ LinearArgs a) {
  const std::int64_t t0 = std::int64_t{blockIdx.y} * kF32Tile, o0 = std::int64_t{blockIdx.x} * kF32Tile;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  auto input = [&](int r, std::int64_t k) {
    const std::int64_t t = t0 + r;
    return t < a.tokens && k < a.in ? static_cast<const float*>(a.x)[t * a.in + k] : 0.0f;
  };
  float sum[4][4] = {};
  multiply_tile_f32(input, a.w, o0, a.out_dim, a.in, sum);
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
    Launch{.grid = {static_cast<unsigned>(ceil_div(a.out_dim, kF32Tile)),
                    static_cast<unsigned>(ceil_div(a.tokens, kF32Tile))},
           .block = kF32TileThreads,
           .stream = stream}(linear_tiles<Out>, a);
  });
}

}  // namespace longhaul::cuda
