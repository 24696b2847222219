// route and mix: a mixture of experts but for its products. A warp chooses the experts of a token; then a block for
// each expert counts the pairs of the experts before it, so that it knows where its own begin, and ranks its own by
// ballots: no order depends on which thread comes first.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct Candidate {
  float logit;
  std::int32_t expert;  // past all experts: none
};
/// Whatever the logits are, one of the two is the better one; of equals the lower number.
__device__ Candidate better(const Candidate& a, const Candidate& b) {
  const bool second = b.logit > a.logit || (!(a.logit > b.logit) && b.expert < a.expert);
  return second ? b : a;
}
/// NaN counts as the least.
__device__ float ranked(float logit) { return isnan(logit) ? -INFINITY : logit; }

template <class Op>
__device__ float reduce(float x, const Op& op) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = op(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}

/// A warp a token. A round takes the best candidate that comes after the last one taken.
__global__ void choose_experts(const __grid_constant__ RouteArgs a) {
  let_next_start();
  wait_for_previous();
  const Routes& r = a.routes;
  const std::int64_t t = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32, experts = static_cast<int>(r.experts);
  if (t >= a.tokens) return;
  const float* logits = a.logits + t * experts;
  float top = -INFINITY, all = 0, own = 0;
  for (int e = lane; e < experts; e += 32) top = fmaxf(top, logits[e]);
  top = reduce(top, [](float x, float y) { return fmaxf(x, y); });
  for (int e = lane; e < experts; e += 32) all += expf(logits[e] - top);
  all = reduce(all, [](float x, float y) { return x + y; });
  Candidate last{INFINITY, -1};
  for (int i = 0; i < static_cast<int>(r.chosen); ++i) {
    Candidate best{-INFINITY, experts};
    for (int e = lane; e < experts; e += 32) {
      const Candidate mine{ranked(logits[e]), e};
      const bool later = mine.logit < last.logit || (mine.logit == last.logit && e > last.expert);
      if (later) best = better(best, mine);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
      best = better(best, {__shfl_xor_sync(~0u, best.logit, offset), __shfl_xor_sync(~0u, best.expert, offset)});
    last = best;
    const float weight = expf(logits[best.expert] - top) / all;
    own += weight;
    if (lane == 0) r.expert[t * r.chosen + i] = best.expert, r.weight[t * r.chosen + i] = weight;
  }
  __syncwarp();
  if (a.normalised)
    for (int i = lane; i < static_cast<int>(r.chosen); i += 32) r.weight[t * r.chosen + i] /= own;
}

/// A block an expert.
__global__ void place_pairs(const __grid_constant__ RouteArgs a) {
  __shared__ int counts[kWarps];
  let_next_start();
  wait_for_previous();
  const Routes& r = a.routes;
  const int pairs = static_cast<int>(a.tokens * r.chosen), expert = static_cast<int>(blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  auto sum_of_warps = [&](int mine, int until) {  // of the warps before `until`
    if (lane == 0) counts[warp] = mine;
    __syncthreads();
    int sum = 0;
    for (int w = 0; w < until; ++w) sum += counts[w];
    __syncthreads();
    return sum;
  };
  int lower = 0;
  for (int i = static_cast<int>(threadIdx.x); i < pairs; i += kThreads) lower += r.expert[i] < expert;
  int place = sum_of_warps(__reduce_add_sync(~0u, lower), kWarps);
  if (threadIdx.x == 0) {
    r.begin[expert] = place;
    if (expert == 0) r.begin[r.experts] = pairs;
  }
  for (int first = 0; first < pairs; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    const bool own = i < pairs && r.expert[i] == expert;
    const unsigned owners = __ballot_sync(~0u, own);
    const int before = sum_of_warps(__popc(owners), warp), all = sum_of_warps(__popc(owners), kWarps);
    if (own) {
      const int at = place + before + __popc(owners & ((1u << lane) - 1));
      r.place[i] = at;
      r.token[at] = i / static_cast<int>(r.chosen);
    }
    place += all;
  }
}

/// A block a token.
template <class T, int N>
__global__ void mix_rows(const __grid_constant__ MixArgs a) {
  let_next_start();
  wait_for_previous();
  const Routes& r = a.routes;
  const std::int64_t t = blockIdx.x;
  T* out = static_cast<T*>(a.out) + t * a.hidden;
  for (std::int64_t c = threadIdx.x * N; c < a.hidden; c += blockDim.x * N) {
    Pack<float, N> sum = {};
    for (std::int64_t i = t * r.chosen; i < (t + 1) * r.chosen; ++i) {
      const auto x = load<N>(static_cast<const T*>(a.x) + r.place[i] * a.hidden + c);
      const float weight = r.weight[i];
#pragma unroll
      for (int j = 0; j < N; ++j) sum.v[j] += x.v[j] * weight;
    }
    const auto old = load<N>(out + c);
#pragma unroll
    for (int j = 0; j < N; ++j) sum.v[j] += old.v[j];
    store<N>(out + c, sum);
  }
}

}  // namespace

void route(const RouteArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  Launch{
      .grid = static_cast<unsigned>(ceil_div(a.tokens, kWarps)), .block = kThreads, .stream = stream, .overlap = true}(
      choose_experts, a);
  Launch{.grid = static_cast<unsigned>(a.routes.experts), .block = kThreads, .stream = stream, .overlap = true}(
      place_pairs, a);
}

void mix(const MixArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  with_type(a.act, [&]<class T>(T) {
    with_pack(a.hidden, [&]<int N>(std::integral_constant<int, N>) {
      Launch{.grid = static_cast<unsigned>(a.tokens), .block = kThreads, .stream = stream, .overlap = true}(
          mix_rows<T, N>, a);
    });
  });
}

}  // namespace longhaul::cuda
