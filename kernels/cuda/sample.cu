// sample: a team of blocks per row, each with a run of neighbouring candidates that it keeps in shared memory with
// their weights. A cut is found among candidates counted by how far their logit is below the highest, which spreads
// those near it evenly, then among the few at the cut, by their ranks, 8 bits a pass. Weights are integers
// (kernels/sampling.h), so the order in which threads add them changes nothing and the CPU draws the same token. A
// penalty goes into the logits of the tokens it is for before all of that: rows without one pay a comparison.
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "kernels/base/bytes.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/team.cuh"
#include "kernels/sampling.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32, kBins = 256, kTeam = 8;
constexpr int kMostListed = 1024;
constexpr std::int64_t kMostShared = 200 << 10;  // of a block, for weights and logits
using Units = unsigned long long;                // what CUDA's 64-bit atomics take
using Scan = cub::BlockScan<Units, kThreads>;
using Reduce = cub::BlockReduce<Units, kThreads>;

enum Slot { kBest, kFinite, kMass, kTopKCut, kTopPCut, kTotal, kSlots };

struct Shared {
  union {
    typename Scan::TempStorage scan;
    typename Reduce::TempStorage reduce;
  };
  Units slots[kSlots];  // of this block, for the team; each is written once
  Units sum[2][kBins];  // by turns, so that a pass can begin while a peer still reads
  unsigned count[2][kBins];
  Units listed[kMostListed], all_listed[kMostListed];  // ranks at the cut: this block's; the first block has the team's
  unsigned listed_count;
  Units warp_mass[kWarps];
  Units before, here;
  int bin;
  unsigned candidates;
};

struct Max {
  __device__ Units operator()(Units a, Units b) const { return a > b ? a : b; }
};
struct Min {
  __device__ Units operator()(Units a, Units b) const { return a < b ? a : b; }
};
struct Sum {
  __device__ Units operator()(Units a, Units b) const { return a + b; }
};

/// The team's reduction, known to every thread.
template <class Op>
__device__ Units reduce(Units x, const Op& op, Slot slot, Shared& shared) {
  const Units block = Reduce(shared.reduce).Reduce(x, op);
  if (threadIdx.x == 0) shared.slots[slot] = block;
  team_sync();
  Units all = *team_peer(&shared.slots[slot], 0);
#pragma unroll
  for (unsigned peer = 1; peer < kTeam; ++peer)
    if (peer < team_size()) all = op(all, *team_peer(&shared.slots[slot], peer));
  return all;
}

/// Not in line: most of the kernel's code would be copies of it.
__device__ __noinline__ Units weight_of(float logit, float highest, float temperature) {
  return sampling::weight(logit, highest, temperature);
}

/// The block's candidates, and how each is seen: f(id, logit), a warp's in one run so that they are in order by warp.
struct Row {
  const float* logits;      // in shared memory, once they are kept
  std::int64_t begin, end;  // of this block
  std::int64_t run;         // of a warp: a multiple of 32
  float highest, temperature;
  Units* weights;  // [end - begin] in shared memory; null: not kept

  template <int kAtOnce = 1, class F>
  __device__ void each(const F& f) const {
    const std::int64_t first = begin + threadIdx.x / 32 * run + threadIdx.x % 32;
    const std::int64_t last = min(begin + (threadIdx.x / 32 + 1) * run, end);
#pragma unroll kAtOnce
    for (std::int64_t i = first; i < last; i += 32) f(i, logits[i]);
  }
  __device__ Units fresh_weight(float logit) const { return weight_of(logit, highest, temperature); }
  __device__ Units weight(std::int64_t i, float logit) const {
    return weights != nullptr ? weights[i - begin] : fresh_weight(logit);
  }
  /// 255 for the highest, and `slope` less for each unit below it, to 0: never higher for a lower logit.
  __device__ int height(float logit, float slope) const {
    return logit == highest ? kBins - 1 : kBins - 1 - static_cast<int>(fminf((highest - logit) * slope, kBins - 1));
  }
};

/// One pass of a radix selection. each(f) calls f(bin, amount) for what this thread has; the bin in which the `need`-th
/// of the amounts falls, best first, is left in `shared` with what is before it and in it. `peers` blocks take part.
template <class Each>
__device__ void find_bin(const Each& each, Units need, unsigned peers, int turn, Shared& shared) {
  __syncthreads();
  struct Run {
    int bin;
    Units sum = 0;
    unsigned count = 0;
  } lowest{0}, run{kBins - 1};  // the lowest bin may have most of all; neighbours may share one of the others
  auto flush = [&](Run& r) {
    if (r.count == 0) return;
    atomicAdd(&shared.sum[turn][r.bin], r.sum);
    atomicAdd(&shared.count[turn][r.bin], r.count);
    r.sum = r.count = 0;
  };
  each([&](int bin, Units amount) {
    if (bin == 0) {
      lowest.sum += amount;
      ++lowest.count;
      return;
    }
    if (bin != run.bin) flush(run);
    run.bin = bin;
    run.sum += amount;
    ++run.count;
  });
  flush(run), flush(lowest);
  peers > 1 ? team_sync() : __syncthreads();
  const int mine = kBins - 1 - static_cast<int>(threadIdx.x);  // best first
  Units here = 0, before;
  unsigned candidates = 0;
  if (mine >= 0)
#pragma unroll
    for (unsigned peer = 0; peer < kTeam; ++peer)
      if (peer < peers) {
        const unsigned block = peers > 1 ? peer : team_rank();
        here += team_peer(shared.sum[turn], block)[mine];
        candidates += team_peer(shared.count[turn], block)[mine];
      }
  Scan(shared.scan).ExclusiveSum(here, before);
  if (mine >= 0 && before < need && need <= before + here)
    shared.bin = mine, shared.before = before, shared.here = here, shared.candidates = candidates;
  if (mine >= 0) shared.sum[turn ^ 1][mine] = 0, shared.count[turn ^ 1][mine] = 0;
  __syncthreads();
}

/// The lowest rank to keep of what each(f) calls f(rank, amount) with, so that the kept have at least `need` in all and
/// no smaller set of best ones has; by the ranks' bytes.
template <class Each>
__device__ Units lowest_rank(const Each& each, Units need, unsigned peers, int turn, Slot slot, Shared& shared) {
  Units prefix = 0;
  auto matching = [&](int shift, const auto& f) {
    each([&](Units rank, Units amount) {
      if (shift >= 56 || rank >> (shift + 8) == prefix) f(rank, amount);
    });
  };
  for (int shift = 56;; shift -= 8, turn ^= 1) {
    auto bins = [&](const auto& f) {
      matching(shift, [&](Units rank, Units amount) { f(static_cast<int>(rank >> shift & (kBins - 1)), amount); });
    };
    find_bin(bins, need, peers, turn, shared);
    prefix = prefix << 8 | static_cast<Units>(shared.bin);
    need -= shared.before;
    if (shared.candidates > 1 && need < shared.here) continue;
    Units lowest = ~Units{0};  // all of the bin
    matching(shift - 8, [&](Units rank, Units) { lowest = Min{}(lowest, rank); });
    if (peers > 1) return reduce(lowest, Min{}, slot, shared);
    return Reduce(shared.reduce).Reduce(lowest, Min{});  // known to the first thread
  }
}

/// The same of the row's candidates of rank >= `floor`, by their number or by their mass. 1 <= need <= all there is.
__device__ Units select(const Row& row, float slope, Units floor, Units need, bool by_mass, Slot slot, Shared& shared) {
  auto amount = [&](std::int64_t i, float logit) { return by_mass ? row.weight(i, logit) : Units{1}; };
  auto amount_of = [&](Units rank) { return by_mass ? row.fresh_weight(sampling::logit_of(rank)) : Units{1}; };
  if (threadIdx.x < kBins) shared.sum[0][threadIdx.x] = 0, shared.count[0][threadIdx.x] = 0;
  if (threadIdx.x == 0) shared.listed_count = 0;
  auto by_height = [&](const auto& f) {
    row.each([&](std::int64_t i, float logit) {
      if (sampling::rank(logit, i) >= floor) f(row.height(logit, slope), amount(i, logit));
    });
  };
  find_bin(by_height, need, team_size(), 0, shared);
  const int height = shared.bin;
  const unsigned candidates = shared.candidates;
  need -= shared.before;
  auto at_cut = [&](const auto& f) {
    row.each([&](std::int64_t i, float logit) {
      if (row.height(logit, slope) != height) return;
      const Units rank = sampling::rank(logit, i);
      if (rank >= floor) f(rank, i, logit);
    });
  };
  if (candidates > kMostListed)  // many equals
    return lowest_rank(
        [&](const auto& f) { at_cut([&](Units rank, std::int64_t i, float x) { f(rank, amount(i, x)); }); }, need,
        team_size(), 1, slot, shared);

  at_cut([&](Units rank, std::int64_t, float) { shared.listed[atomicAdd(&shared.listed_count, 1)] = rank; });
  team_sync();
  if (team_rank() == 0) {
    unsigned count = 0;
    for (unsigned peer = 0; peer < team_size(); ++peer) {
      const unsigned more = *team_peer(&shared.listed_count, peer);
      const Units* ranks = team_peer(shared.listed, peer);
      for (unsigned i = threadIdx.x; i < more; i += kThreads) shared.all_listed[count + i] = ranks[i];
      count += more;
    }
    __syncthreads();
    auto listed = [&](const auto& f) {
      for (unsigned i = threadIdx.x; i < count; i += kThreads) f(shared.all_listed[i], amount_of(shared.all_listed[i]));
    };
    const Units cut = lowest_rank(listed, need, 1, 1, slot, shared);
    if (threadIdx.x == 0) shared.slots[slot] = cut;
  }
  team_sync();
  return *team_peer(&shared.slots[slot], 0);
}

/// Of the kept, walked by id, the first at which the sum of weights exceeds the draw.
__device__ void draw(const Row& row, Units cut, const SampleParams& p, std::int32_t* out, Shared& shared) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  auto mass = [&](std::int64_t i, float logit) { return sampling::rank(logit, i) >= cut ? row.weight(i, logit) : 0; };
  Units sum = 0;
  row.each([&](std::int64_t i, float logit) { sum += mass(i, logit); });
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (lane == 0) shared.warp_mass[warp] = sum;
  const Units total = reduce(lane == 0 ? sum : 0, Sum{}, kTotal, shared);
  Units before = 0;  // this warp's run
#pragma unroll
  for (unsigned peer = 0; peer < kTeam; ++peer)
    if (peer < team_rank()) before += *team_peer(&shared.slots[kTotal], peer);
  for (unsigned w = 0; w < warp; ++w) before += shared.warp_mass[w];
  const Units target = sampling::draw(p.seed, p.step, total);
  if (target < before || target >= before + sum) return;
  for (std::int64_t first = row.begin + warp * row.run;; first += 32) {
    const std::int64_t i = first + lane;
    Units upto = i < row.end ? mass(i, row.logits[i]) : 0;
    for (int offset = 1; offset < 32; offset *= 2) {
      const Units left = __shfl_up_sync(~0u, upto, offset);
      if (static_cast<int>(lane) >= offset) upto += left;
    }
    const unsigned above = __ballot_sync(~0u, before + upto > target);
    if (above != 0) {
      if (lane == 0) *out = static_cast<std::int32_t>(first + __ffs(static_cast<int>(above)) - 1);
      return;
    }
    before += __shfl_sync(~0u, upto, 31);
  }
}

/// The logits [begin, end) of tokens that are there already, by the words of their bits: a thread has a word's. The
/// block's first and last word may be a peer's, too; both then add the newest token to it and leave the same.
__device__ void penalise(const SampleArgs& a, const SampleParams& p, float* logits, std::int64_t begin,
                         std::int64_t end) {
  std::uint32_t* seen = a.seen + p.slot * seen_words(a.vocab);
  for (std::int64_t w = begin / 32 + threadIdx.x; w * 32 < end; w += kThreads) {
    std::uint32_t word = seen[w];
    if (p.newest / 32 == w) seen[w] = word |= 1u << p.newest % 32;
    for (; word != 0; word &= word - 1) {
      const std::int64_t i = w * 32 + __ffs(static_cast<int>(word)) - 1;
      if (i >= begin && i < end) logits[i] = sampling::penalised(logits[i], p.repetition_penalty);
    }
  }
  __syncthreads();
}

__device__ void sample_row(const SampleArgs& a, float* kept, Shared& shared) {
  const std::int64_t r = blockIdx.x / team_size(), slice = (a.vocab + team_size() - 1) / team_size();
  const SampleParams p = a.params[r];
  Row row{.logits = a.logits + r * a.vocab, .begin = min(team_rank() * slice, a.vocab)};
  row.end = min(row.begin + slice, a.vocab);
  row.run = (slice + kThreads - 1) / kThreads * 32;
  if (p.repetition_penalty != 1) penalise(a, p, a.logits + r * a.vocab, row.begin, row.end);

  Units best = 0;
  bool nan = false, finite = false;
  row.each<8>([&](std::int64_t i, float x) {
    if (kept != nullptr) kept[i - row.begin] = x;  // a thread reads what it has written
    nan |= isnan(x);
    finite |= isfinite(x);
    best = Max{}(best, sampling::rank(x, i));
  });
  constexpr Units kNan = ~Units{0};
  best = reduce(nan ? kNan : best, Max{}, kBest, shared);
  const float highest = sampling::logit_of(best);
  const bool any = isfinite(highest) || reduce(finite, Max{}, kFinite, shared) != 0;
  if (best == kNan || !any || !(p.temperature > 0)) {
    if (team_rank() == 0 && threadIdx.x == 0) a.out[r] = best == kNan || !any ? -1 : sampling::id_of(best);
    return;
  }

  row.highest = highest;
  row.temperature = p.temperature;
  const bool few = p.top_k > 0 && p.top_k < a.vocab;
  if (kept != nullptr) row.logits = kept - row.begin;
  if (kept != nullptr && !few) {  // of few it is cheaper to work them out again
    auto* weights = reinterpret_cast<Units*>(kept + round_up(slice, 2));
    row.each<1>([&](std::int64_t i, float x) { weights[i - row.begin] = row.fresh_weight(x); });
    row.weights = weights;
  }
  constexpr float kFine = 16;  // bins a unit, so that few are left at a cut: 16 units in all
  Units cut = 0;               // ranks from here are kept
#pragma unroll 1
  for (bool by_mass : {false, true}) {
    Units need = static_cast<Units>(p.top_k);
    if (by_mass ? !(p.top_p < 1) : !few) continue;
    if (by_mass) {
      Units mass = 0;
      row.each([&](std::int64_t i, float x) {
        if (sampling::rank(x, i) >= cut) mass += row.weight(i, x);
      });
      need = sampling::mass_needed(p.top_p, reduce(mass, Sum{}, kMass, shared));
    }
    cut =
        select(row, by_mass ? kFine / p.temperature : kFine, cut, need, by_mass, by_mass ? kTopPCut : kTopKCut, shared);
  }
  draw(row, cut, p, a.out + r, shared);
}

__global__ void __launch_bounds__(kThreads, 1) sample_rows(const __grid_constant__ SampleArgs a, bool keep) {
  __shared__ Shared shared;
  extern __shared__ float4 kept[];
  wait_for_previous();
  let_next_start();
  sample_row(a, keep ? reinterpret_cast<float*>(kept) : nullptr, shared);
  team_sync();
}

}  // namespace

void sample(const SampleArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  const unsigned team = has_hopper_launches() ? kTeam : 1;
  const std::int64_t slice = round_up(ceil_div(a.vocab, team), 2);
  const std::int64_t bytes = slice * static_cast<std::int64_t>(sizeof(float) + sizeof(Units));
  const bool keep = bytes <= kMostShared;
  Launch{.grid = static_cast<unsigned>(a.tokens) * team,
         .block = kThreads,
         .shared_bytes = keep ? static_cast<std::size_t>(bytes) : 0,
         .stream = stream,
         .overlap = true,
         .cluster = team}(sample_rows, a, keep);
}

}  // namespace longhaul::cuda
