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

constexpr int kLanes = kGroup / 8;

/// Eight lanes per group of a row's K or V, eight elements a lane.
template <class T>
__global__ void __launch_bounds__(kThreads) round_groups(const __grid_constant__ RoundRowsArgs a, int groups) {
  const std::int64_t item = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanes;
  const std::int64_t half = item / groups;  // K and V of a row are neighbours
  const int begin = static_cast<int>(item % groups) * kGroup, c = threadIdx.x % kLanes * 8;
  const bool there = half < 2 * a.kv.rows && begin + c < a.head_dim;
  T* x = reinterpret_cast<T*>(a.kv.data + blockIdx.y * a.kv.head_stride) + half * a.head_dim + begin + c;
  Pack<float, 8> v;
  float low = INFINITY, high = -INFINITY;
  if (there) {
    v = load<8>(x);
    for (float y : v.v) low = fminf(low, y), high = fmaxf(high, y);
  }
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    low = fminf(low, __shfl_xor_sync(~0u, low, offset));
    high = fmaxf(high, __shfl_xor_sync(~0u, high, offset));
  }
  const float step = (high - low) / static_cast<float>((1 << a.bits) - 1);
  if (!there || !(step > 0)) return;  // all equal: exact as they are
  for (float& y : v.v) y = __fadd_rn(low, __fmul_rn(step, rintf((y - low) / step)));
  store<8>(x, v);
}

}  // namespace

void round_rows(const RoundRowsArgs& a, cudaStream_t stream) {
  if (a.kv.rows == 0) return;
  const std::int64_t groups = ceil_div(a.head_dim, kGroup);
  with_type(a.act, [&]<class T>(T) {
    Launch{.grid = {static_cast<unsigned>(ceil_div(a.kv.rows * 2 * groups * kLanes, kThreads)),
                    static_cast<unsigned>(a.kv_heads)},
           .block = kThreads,
           .stream = stream}(round_groups<T>, a, static_cast<int>(groups));
  });
}

}  // namespace longhaul::cuda
