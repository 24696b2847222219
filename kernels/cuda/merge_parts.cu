#include "kernels/cuda/merge_parts.cuh"

#include <cmath>
#include <type_traits>

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kInFlight = 4;  // parts that a warp loads before it uses the first
constexpr int kChunk = 128;   // elements of a part that a warp loads at once, 4 a lane

/// A block per query head of a token: its warps share the parts, and add up by the maximum among their own, so that
/// nothing waits for the maximum of all.
template <class T, int C, int Threads>
__global__ void __launch_bounds__(Threads) merge_head(const __grid_constant__ MergePartsArgs a) {
  constexpr int kWarps = Threads / 32;
  __shared__ alignas(16) float warp_o[kWarps][C * kChunk];
  __shared__ float warp_m[kWarps], warp_l[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, d = a.head_dim, state = static_cast<int>(blockIdx.x);
  const int segment = state / a.group, g = state % a.group;
  PartRange ones = {0, 0}, twos = {0, 0};
#pragma unroll 1
  for (int set = 0; set < a.set_count; ++set) {
    ones = twos;
    twos = Deal(a.sets[set].counts, a.blocks).parts_of(segment);
  }
  const Parts &one = a.sets[0].parts, &last = a.sets[a.set_count - 1].parts;
  const int parts = ones.count + twos.count;

  wait_for_previous();  // counts are older than the parts
  let_next_start();
  const float old_m = a.fresh ? -INFINITY : a.state.m[state], old_l = a.fresh ? 0.0f : a.state.l[state];

  const float tail = a.tail.tail == nullptr ? kNoTail : a.tail.tail[state];

  float m = -INFINITY, l = 0;
  Pack<float, 4> o[C] = {};
  for (int first = warp; first < parts; first += kWarps * kInFlight) {
    float2 ml[kInFlight];
    Pack<float, 4> x[kInFlight][C] = {};
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int part = first + i * kWarps;
      ml[i] = {-INFINITY, 0};
      if (part >= parts) continue;
      const bool in_one = part < ones.count;
      const Parts& from = in_one ? one : last;
      const std::int64_t at =
          static_cast<std::int64_t>(in_one ? ones.first + part : twos.first + part - ones.count) * a.group + g;
      ml[i] = from.ml[at];
#pragma unroll
      for (int c = 0; c < C; ++c)
        if (c * kChunk + lane * 4 < d) x[i][c] = load<4>(from.o + at * d + c * kChunk + lane * 4);
    }
    float most = m;
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) most = fmaxf(most, ml[i].x);
    const float keep = decay(m, most);
    m = most;
    l *= keep;
#pragma unroll
    for (int c = 0; c < C; ++c)
#pragma unroll
      for (int j = 0; j < 4; ++j) o[c].v[j] *= keep;
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const float take = decay(ml[i].x, m);  // past the end: of zeros
      l += ml[i].y * take;
#pragma unroll
      for (int c = 0; c < C; ++c)
#pragma unroll
        for (int j = 0; j < 4; ++j) o[c].v[j] += x[i][c].v[j] * take;
    }
  }
#pragma unroll
  for (int c = 0; c < C; ++c) store<4>(&warp_o[warp][c * kChunk + lane * 4], o[c]);
  if (lane == 0) warp_m[warp] = m, warp_l[warp] = l;
  __syncthreads();

  float most = tail > kNoTail ? fmaxf(old_m, tail) : old_m;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) most = fmaxf(most, warp_m[w]);
  const float keep = decay(old_m, most);
  float take[kWarps], sum = old_l * keep;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    take[w] = decay(warp_m[w], most);
    sum += warp_l[w] * take[w];
  }
  const float rest = tail > kNoTail ? decay(tail, most) : 0.0f;  // the weight of the mean value
  sum += rest;
  for (int column = static_cast<int>(threadIdx.x); column < d; column += Threads) {
    const std::int64_t at = static_cast<std::int64_t>(state) * d + column;
    float x = a.fresh ? 0.0f : a.state.o[at] * keep;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) x += warp_o[w][column] * take[w];
    if (rest > 0) {
      const int kv_heads = a.tail.kv_heads, slot = a.tail.spans[segment / kv_heads].slot;
      x += rest * a.tail.mean[slot * a.tail.mean_session_stride + segment % kv_heads * d + column];
    }
    if (a.out == nullptr) a.state.o[at] = x;
    else static_cast<T*>(a.out)[at] = narrow<T>(sum == 0 ? 0.0f : x / sum);
  }
  if (threadIdx.x == 0) a.state.m[state] = most, a.state.l[state] = sum;
}

}  // namespace

void merge_parts(const MergePartsArgs& a, cudaStream_t stream) {
  constexpr int kManyStates = 512;  // of which each has few parts
  const RowCounts& counts = a.sets[0].counts;
  const int states = counts.entries * counts.same * a.group;
  auto launch = [&]<class T, int C, int Threads>(T, std::integral_constant<int, C>,
                                                 std::integral_constant<int, Threads>) {
    Launch{.grid = static_cast<unsigned>(states), .block = Threads, .stream = stream, .overlap = true}(
        merge_head<T, C, Threads>, a);
  };
  auto with_threads = [&](auto type, auto chunks) {
    if (states <= kManyStates) launch(type, chunks, std::integral_constant<int, 256>{});
    else launch(type, chunks, std::integral_constant<int, 64>{});
  };
  with_type(a.act, [&](auto type) {
    if (a.head_dim <= kChunk) with_threads(type, std::integral_constant<int, 1>{});
    else with_threads(type, std::integral_constant<int, 2>{});
  });
}

}  // namespace longhaul::cuda
