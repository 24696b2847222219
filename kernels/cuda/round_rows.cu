// round_rows: what a cache of fewer bits would give back, to the bit of the CPU's: products and sums are not fused.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 64;

/// A warp per group of a row's K or V, two elements a lane.
template <class T>
__global__ void __launch_bounds__(kThreads) round_groups(const __grid_constant__ RoundRowsArgs a, int groups) {
  const std::int64_t item = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  const std::int64_t half = item / groups, row = half / 2;  // K and V of a row are neighbours
  if (row >= a.kv.rows) return;
  const int lane = threadIdx.x % 32, begin = static_cast<int>(item % groups) * kGroup;
  const int n = min(kGroup, static_cast<int>(a.head_dim) - begin);
  T* x = reinterpret_cast<T*>(a.kv.data + blockIdx.y * a.kv.head_stride) + half * a.head_dim + begin;
  const int c = 2 * lane;
  Pack<float, 2> v = {};
  float low = INFINITY, high = -INFINITY;
  if (c < n) {
    v = load<2>(x + c);
    low = fminf(v.v[0], v.v[1]), high = fmaxf(v.v[0], v.v[1]);
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    low = fminf(low, __shfl_xor_sync(~0u, low, offset));
    high = fmaxf(high, __shfl_xor_sync(~0u, high, offset));
  }
  const float step = (high - low) / static_cast<float>((1 << a.bits) - 1);
  if (!(step > 0) || c >= n) return;  // all equal: exact as they are
  for (float& y : v.v) y = __fadd_rn(low, __fmul_rn(step, rintf((y - low) / step)));
  store<2>(x + c, v);
}

}  // namespace

void round_rows(const RoundRowsArgs& a, cudaStream_t stream) {
  if (a.kv.rows == 0) return;
  const std::int64_t groups = ceil_div(a.head_dim, kGroup);
  with_type(a.act, [&]<class T>(T) {
    Launch{.grid = {static_cast<unsigned>(ceil_div(a.kv.rows * 2 * groups * 32, kThreads)),
                    static_cast<unsigned>(a.kv_heads)},
           .block = kThreads,
           .stream = stream}(round_groups<T>, a, static_cast<int>(groups));
  });
}

}  // namespace longhaul::cuda
