// Partial attentions: merge adds two, finish divides.
#include <cmath>

#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;

/// A warp per (token, head).
__global__ void merge_states(const __grid_constant__ MergeArgs a) {
  const unsigned lane = threadIdx.x % 32;
  const std::int64_t i = std::int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (i >= a.tokens * a.heads) return;
  const float ours = a.into.m[i], theirs = a.from.m[i];
  if (theirs == -INFINITY) return;
  const float m = fmaxf(ours, theirs), keep = decay(ours, m), add = decay(theirs, m);
  float* into = a.into.o + i * a.head_dim;
  const float* from = a.from.o + i * a.head_dim;
  for (std::int64_t c = lane * 4; c < a.head_dim; c += 128) {
    auto x = load<4>(into + c);
    const auto y = load<4>(from + c);
    for (int j = 0; j < 4; ++j) x.v[j] = x.v[j] * keep + y.v[j] * add;
    store<4>(into + c, x);
  }
  __syncwarp();  // all lanes have read m
  if (lane == 0) {
    a.into.m[i] = m;
    a.into.l[i] = a.into.l[i] * keep + a.from.l[i] * add;
  }
}

/// A thread per 8 elements.
template <class T>
__global__ void finish_states(const __grid_constant__ FinishArgs a) {
  const std::int64_t item = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, packs = a.head_dim / 8;
  if (item >= a.tokens * a.heads * packs) return;
  const float l = a.state.l[item / packs], factor = l == 0 ? 0.0f : 1.0f / l;
  auto x = load<8>(a.state.o + item * 8);
  for (int j = 0; j < 8; ++j) x.v[j] *= factor;
  store<8>(static_cast<T*>(a.out) + item * 8, x);
}

}  // namespace

void merge(const MergeArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  Launch{.grid = static_cast<unsigned>(ceil_div(a.tokens * a.heads * 32, kThreads)),
         .block = kThreads,
         .stream = stream}(merge_states, a);
}

void finish(const FinishArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  with_type(a.act, [&]<class T>(T) {
    Launch{.grid = static_cast<unsigned>(ceil_div(a.tokens * a.heads * a.head_dim / 8, kThreads)),
           .block = kThreads,
           .stream = stream}(finish_states<T>, a);
  });
}

}  // namespace longhaul::cuda
