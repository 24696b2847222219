#include "kernels/cuda/merge_parts.cuh"

#include <cmath>

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kMostDim = 256;

/// A block per query head of a token; its warps share the parts, 4 elements a lane.
template <class T>
__global__ void __launch_bounds__(kThreads) merge_head(const __grid_constant__ MergePartsArgs a) {
  __shared__ alignas(16) float warp_o[kWarps][kMostDim];
  __shared__ float warp_l[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, d = a.head_dim, state = static_cast<int>(blockIdx.x);
  const int segment = state / a.group, g = state % a.group;

  const PartSet &one = a.sets[0], &two = a.sets[1];
  const PartRange ones = parts_of(one.counts, segment, a.blocks);
  const PartRange twos = a.set_count == 2 ? parts_of(two.counts, segment, a.blocks) : PartRange{0, 0};
  const int parts = ones.count + twos.count;
  auto index = [&](int i) {  // of part i's state, in its set
    const int part = i < ones.count ? ones.first + i : twos.first + i - ones.count;
    return static_cast<std::int64_t>(part) * a.group + g;
  };
  auto ml = [&](int i) { return (i < ones.count ? one : two).parts.ml[index(i)]; };
  auto o = [&](int i) { return (i < ones.count ? one : two).parts.o + index(i) * d; };

  wait_for_previous();  // counts are older than the parts
  let_next_start();

  const float old = a.fresh ? -INFINITY : a.state.m[state];
  float most = old;
  for (int i = lane; i < parts; i += 32) most = fmaxf(most, ml(i).x);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, offset));

  for (int column = lane * 4; column < d; column += 128) {
    Pack<float, 4> sum = {};
#pragma unroll 4
    for (int i = warp; i < parts; i += kWarps) {
      const auto x = load<4>(o(i) + column);
      const float take = decay(ml(i).x, most);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum.v[j] += x.v[j] * take;
    }
    store<4>(&warp_o[warp][column], sum);
  }
  float l = 0;
  for (int i = warp + lane * kWarps; i < parts; i += kThreads) {
    const float2 x = ml(i);
    l += x.y * decay(x.x, most);
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) l += __shfl_xor_sync(~0u, l, offset);
  if (lane == 0) warp_l[warp] = l;
  const float keep = decay(old, most);
  l = a.fresh ? 0.0f : a.state.l[state] * keep;
  __syncthreads();

  for (int w = 0; w < kWarps; ++w) l += warp_l[w];
  const int column = static_cast<int>(threadIdx.x);
  if (column < d) {
    const std::int64_t at = static_cast<std::int64_t>(state) * d + column;
    float x = a.fresh ? 0.0f : a.state.o[at] * keep;
    for (int w = 0; w < kWarps; ++w) x += warp_o[w][column];
    if (a.out == nullptr) a.state.o[at] = x;
    else static_cast<T*>(a.out)[at] = narrow<T>(l == 0 ? 0.0f : x / l);
  }
  if (threadIdx.x == 0) a.state.m[state] = most, a.state.l[state] = l;
}

}  // namespace

void merge_parts(const MergePartsArgs& a, cudaStream_t stream) {
  with_type(a.act, [&]<class T>(T) {
    Launch{.grid = static_cast<unsigned>(a.sets[0].counts.segments * a.group),
           .block = kThreads,
           .stream = stream,
           .overlap = true}(merge_head<T>, a);
  });
}

}  // namespace longhaul::cuda
