// finish: a partial attention, divided; and states of a library that has no maximum apart.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;

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

__global__ void fill_all(float* at, float value, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) at[i] = value;
}

}  // namespace

void fill_floats(float* at, float value, std::int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  Launch{.grid = static_cast<unsigned>(ceil_div(count, kThreads)), .block = kThreads, .stream = stream}(fill_all, at,
                                                                                                        value, count);
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
