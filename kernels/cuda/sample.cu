// sample: a block per row. Cuts are found by radix selection over the candidates' ranks, 8 bits a pass; weights are
// integers (kernels/sampling.h), so the order in which threads add them changes nothing and the CPU draws the same
// token.
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/sampling.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 512, kBins = 256;
using Units = unsigned long long;  // what CUDA's 64-bit atomics take
using Scan = cub::BlockScan<Units, kThreads>;
using Reduce = cub::BlockReduce<Units, kThreads>;

struct Shared {
  union {
    typename Scan::TempStorage scan;
    typename Reduce::TempStorage reduce;
  };
  Units sum[kBins];
  unsigned count[kBins];
  Units result;
  int bin;
};

struct Max {
  __device__ Units operator()(Units a, Units b) const { return a > b ? a : b; }
};

/// The block's reduction, known to every thread.
template <class Op>
__device__ Units reduce(Units x, const Op& op, Shared& shared) {
  const Units all = Reduce(shared.reduce).Reduce(x, op);
  if (threadIdx.x == 0) shared.result = all;
  __syncthreads();
  const Units result = shared.result;
  __syncthreads();
  return result;
}

/// The lowest rank to keep so that the candidates of rank >= `floor` kept have at least `need` of `measure` in all, and
/// no smaller set of best ones has. 1 <= need <= their sum.
template <class Measure>
__device__ Units select(const float* row, std::int64_t vocab, Units floor, Units need, const Measure& measure,
                        Shared& shared) {
  Units prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (threadIdx.x < kBins) shared.sum[threadIdx.x] = 0, shared.count[threadIdx.x] = 0;
    __syncthreads();
    int bin = 0;  // neighbours often share a bin: one pair of atomics for a run of them
    Units sum = 0;
    unsigned count = 0;
    auto flush = [&] {
      if (count == 0) return;
      atomicAdd(&shared.sum[bin], sum);
      atomicAdd(&shared.count[bin], count);
      sum = count = 0;
    };
    for (std::int64_t i = threadIdx.x; i < vocab; i += kThreads) {
      const Units rank = sampling::rank(row[i], i);
      if (rank < floor || (shift < 56 && rank >> (shift + 8) != prefix)) continue;
      const int at = static_cast<int>(rank >> shift & (kBins - 1));
      if (at != bin) flush();
      bin = at;
      sum += measure(row[i]);
      ++count;
    }
    flush();
    __syncthreads();
    const int mine = kBins - 1 - static_cast<int>(threadIdx.x);  // best first
    const Units here = mine >= 0 ? shared.sum[mine] : 0;
    Units before;
    Scan(shared.scan).ExclusiveSum(here, before);
    if (mine >= 0 && before < need && need <= before + here) shared.bin = mine, shared.result = before;
    __syncthreads();
    prefix = prefix << 8 | static_cast<Units>(shared.bin);
    need -= shared.result;
    const bool whole = shared.count[shared.bin] == 1 || need == shared.sum[shared.bin];
    __syncthreads();  // all have read before the next pass writes
    if (whole) return Max{}(floor, prefix << shift);
  }
  return prefix;
}

__global__ void __launch_bounds__(kThreads, 1) sample_rows(const __grid_constant__ SampleArgs a) {
  __shared__ Shared shared;
  const float* row = a.logits + blockIdx.x * a.vocab;
  std::int32_t* out = a.out + blockIdx.x;
  const SampleParams p = a.params[blockIdx.x];

  Units best = 0;
  bool nan = false, finite = false;
  for (std::int64_t i = threadIdx.x; i < a.vocab; i += kThreads) {
    const float x = row[i];
    nan |= isnan(x);
    finite |= isfinite(x);
    best = Max{}(best, sampling::rank(x, i));
  }
  nan = __syncthreads_or(nan);
  finite = __syncthreads_or(finite);
  best = reduce(best, Max{}, shared);
  if (nan || !finite || !(p.temperature > 0)) {
    if (threadIdx.x == 0) *out = nan || !finite ? -1 : sampling::id_of(best);
    return;
  }

  const float highest = row[sampling::id_of(best)];
  auto weight = [&](float logit) -> Units { return sampling::weight(logit, highest, p.temperature); };
  Units cut = 0;  // ranks from here are kept
  if (p.top_k > 0 && p.top_k < a.vocab)
    cut = select(
        row, a.vocab, cut, static_cast<Units>(p.top_k), [](float) -> Units { return 1; }, shared);
  if (p.top_p < 1) {
    Units mass = 0;
    for (std::int64_t i = threadIdx.x; i < a.vocab; i += kThreads)
      if (sampling::rank(row[i], i) >= cut) mass += weight(row[i]);
    mass = reduce(
        mass, [](Units x, Units y) { return x + y; }, shared);
    cut = select(row, a.vocab, cut, sampling::mass_needed(p.top_p, mass), weight, shared);
  }

  // The draw walks the kept by id: a run of neighbours each.
  const std::int64_t run = (a.vocab + kThreads - 1) / kThreads, begin = threadIdx.x * run;
  const std::int64_t end = begin + run < a.vocab ? begin + run : a.vocab;
  Units mine = 0, before, total;
  for (std::int64_t i = begin; i < end; ++i)
    if (sampling::rank(row[i], i) >= cut) mine += weight(row[i]);
  Scan(shared.scan).ExclusiveSum(mine, before, total);
  const Units draw = sampling::draw(p.seed, p.step, total);
  if (draw < before || draw >= before + mine) return;
  for (std::int64_t i = begin; i < end; ++i)
    if (sampling::rank(row[i], i) >= cut && (before += weight(row[i])) > draw) {
      *out = static_cast<std::int32_t>(i);
      return;
    }
}

}  // namespace

void sample(const SampleArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  Launch{.grid = static_cast<unsigned>(a.tokens), .block = kThreads, .stream = stream}(sample_rows, a);
}

}  // namespace longhaul::cuda
