// The exact top of a head's keys, ascending, equal keys from the lower row. Scoring has counted the keys' first digit;
// blocks share a head's rows. In the first launch each finds the digit of the threshold and lists its rows that have
// it, few as a rule; the block that comes last of a head's finds among these the threshold itself, and where each
// block's rows go. The second launch writes the list, and the block that comes last its tail.
#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/listed_rows.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/tail.cuh"

namespace longhaul::cuda {
namespace {

using namespace top;

/// How many blocks have come before. By one thread, when its block has met: what it and they have written is seen by
/// the block once it meets again.
__device__ inline std::uint32_t come_after(std::uint32_t* count) {
  std::uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(count) : "memory");
  return before;
}

/// A thread's keys of a tile: 4 neighbours of each of its runs.
struct TileKeys {
  uint4 runs[kPerThread / 4];
};

/// Counts the part's rows above the threshold's first digit, and lists those that have it.
template <bool Mass>
__global__ void __launch_bounds__(kThreads, Mass ? 2 : 4) list_digit(const __grid_constant__ Selection s) {
  extern __shared__ uint4 space[];
  auto& shared = *reinterpret_cast<SeekShared<Mass>*>(space);
  __shared__ std::uint32_t listed, above, finished;
  const Part part(s);
  HeadTally& tally = s.tallies[part.head];
  const std::uint32_t* keys = s.keys + part.head * s.stride;
  std::int32_t* list = s.lists + part.head * s.stride + part.begin;
  const int end = min(part.end, part.c.tail), mine = static_cast<int>(threadIdx.x) * 4;
  if (threadIdx.x == 0) listed = above = 0;
  wait_for_previous();
  let_next_start();  // now, so that the next may read keys ahead
  if (!part.c.open()) return;
  const uint4 counts = counts_of_thread(tally.counts);  // before keys, which are many
  TileKeys held;
  auto read = [&](int from) {
#pragma unroll
    for (int i = 0; i < kPerThread / 4; ++i) held.runs[i] = keys_at(keys, from + i * kThreads * 4 + mine, end);
  };
  read(part.begin);
  const Wanted wanted = wanted_of<Mass>(s, part, shared.finder);
  Digit digit{-1, 0, {0, 0}};
  if (wanted.mass > 0) digit = find<Mass>(counts, tally.masses, wanted, shared.finder);
  std::uint32_t higher = 0;
#pragma unroll 1
  for (int from = part.begin; wanted.mass > 0 && from < end; from += kTileRows) {
    if (from != part.begin) read(from);
    std::uint32_t equal = 0;  // a bit a row
#pragma unroll
    for (int i = 0; i < kPerThread / 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = from + i * kThreads * 4 + mine + j;
        const std::uint32_t key = element(held.runs[i], j);
        const int bin = static_cast<int>(key >> s.digit_shift & (kDigitBins - 1));
        const bool competes = row < end && row >= part.c.head && key >= s.lowest;
        equal |= static_cast<std::uint32_t>(competes && bin == digit.bin) << (4 * i + j);
        higher += competes && bin > digit.bin;
      }
#pragma unroll 1
    for (; equal != 0; equal &= equal - 1) {
      const int bit = __ffs(static_cast<int>(equal)) - 1;
      list[atomicAdd(&listed, 1u)] = from + bit / 4 * kThreads * 4 + mine + bit % 4;
    }
  }
  __syncthreads();  // `above` is 0
  if (higher > 0) atomicAdd(&above, higher);
  __syncthreads();
  if (threadIdx.x == 0) {
    tally.parts[part.index].above = above, tally.parts[part.index].listed = listed;
    finished = come_after(&tally.listed_parts) + 1;
  }
  __syncthreads();
  if (finished == gridDim.x) Seeker<Mass>(s, part, shared).run(digit);
}

enum class Tails : std::uint8_t { none, codes, scores };  // codes: of score_codes' shares

/// A warp has 512 rows of a tile, its lanes 4 neighbours of each 128.
template <Tails Tail>
__global__ void __launch_bounds__(kThreads, Tail == Tails::none ? 4 : 2)
    write_list(const __grid_constant__ Selection s) {
  constexpr int kRuns = kPerThread / 4;
  __shared__ std::uint32_t warp_rows[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Part part(s);
  const Competition& c = part.c;
  const std::uint32_t* keys = s.keys + part.head * s.stride;
  std::int32_t* out = s.a.out.rows + part.head * s.a.out.stride;
  const int scored = c.open() ? min(part.end, c.tail) : 0, first = warp * 32 * kPerThread + lane * 4;
  TileKeys held;
  auto read = [&](int from) {
#pragma unroll
    for (int i = 0; i < kRuns; ++i) held.runs[i] = keys_at(keys, from + first + i * 128, scored);
  };
  read(part.begin);  // the launch before this one has waited for the keys
  TailBase base;
  if (const int group = static_cast<int>(s.group); Tail == Tails::codes && c.open() && warp < group)
    base.load(s, part.head * group + warp);
  wait_for_previous();
  let_next_start();
  Threshold threshold;
  int at = c.given_before(part.begin);
  if (c.open()) {
    const HeadTally& tally = s.tallies[part.head];
    threshold = {__ldcg(&tally.key), __ldcg(&tally.last)};
    at += static_cast<int>(__ldcg(&tally.parts[part.index].before));
  }
  const int part_at = at;
#pragma unroll 1
  for (int from = part.begin; from < part.end; from += kTileRows) {
    if (from != part.begin) read(from);
    std::uint32_t taken = 0, counts = 0;  // a bit a row; a byte of each run
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      std::uint32_t some = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = from + first + i * 128 + j;
        const bool in = row < c.head || row >= c.tail || threshold.takes(element(held.runs[i], j), row);
        some |= static_cast<std::uint32_t>(in && row < part.end) << j;
      }
      taken |= some << (4 * i);
      counts |= static_cast<std::uint32_t>(__popc(some)) << (8 * i);
    }
    std::uint32_t sums = counts;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const std::uint32_t lower = __shfl_up_sync(~0u, sums, o);
      if (lane >= o) sums += lower;
    }
    const std::uint32_t totals = __shfl_sync(~0u, sums, 31);
    __syncthreads();  // the tile before has been read
    if (lane == 0) warp_rows[warp] = (totals & 255) + (totals >> 8 & 255) + (totals >> 16 & 255) + (totals >> 24);
    __syncthreads();
    const std::uint32_t rows = lane < kWarps ? warp_rows[lane] : 0;
    int run = at + static_cast<int>(__reduce_add_sync(~0u, lane < warp ? rows : 0u));
    at += static_cast<int>(__reduce_add_sync(~0u, rows));
    const std::uint32_t earlier = sums - counts;
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      int to = run + static_cast<int>(earlier >> (8 * i) & 255);
#pragma unroll 1
      for (std::uint32_t bits = taken >> (4 * i) & 15; bits != 0; bits &= bits - 1)
        out[to++] = from + first + i * 128 + __ffs(static_cast<int>(bits)) - 1;
      run += static_cast<int>(totals >> (8 * i) & 255);
    }
  }
  // The last part to have rows knows how many there are in all.
  if (threadIdx.x == 0 && part.begin < part.end && part.end == c.rows) s.a.out.count[part.head] = at;
  if (threadIdx.x == 0 && c.rows == 0 && part.index == 0) s.a.out.count[part.head] = 0;
  if constexpr (Tail != Tails::none) {
    if (!c.open() || s.a.by != SelectBy::labels) {
      if (part.index == 0 && threadIdx.x < s.group) s.a.out.tail[part.head * s.group + threadIdx.x] = kNoTail;
      return;
    }
    __shared__ bool is_last;
    HeadTally& tally = s.tallies[part.head];
    if constexpr (Tail == Tails::codes) {
      const int group = static_cast<int>(s.group);
      const std::uint32_t* shares = s.shares + part.head * s.stride * share_words(s.group);
      ListedShares listed;
      __syncthreads();  // the part's rows are written
      for (int i = part_at + static_cast<int>(threadIdx.x); i < at; i += kThreads)
        if (const int row = out[i]; row < c.tail) listed.add(shares, keys, group, row);
      listed.store(group, tally.shares[part.index]);
    }
    __syncthreads();
    if (threadIdx.x == 0) is_last = come_after(&tally.written_parts) + 1 == gridDim.x;
    __syncthreads();
    if (!is_last) return;
    if (Tail == Tails::codes) write_tail(s, part.head, base, static_cast<int>(gridDim.x));
    else write_tail_of_scores(s, part.head, part.place);
  }
}

template <bool Mass>
void list(const Selection& s, dim3 grid, cudaStream_t stream) {
  Launch{
      .grid = grid, .block = kThreads, .shared_bytes = sizeof(SeekShared<Mass>), .stream = stream, .overlap = !s.hint}(
      list_digit<Mass>, s);
}

}  // namespace

void top_rows(const Selection& s, cudaStream_t stream) {
  // A tile a block where that is no more than two blocks a multiprocessor; lists do not depend on it.
  const std::int64_t room = std::max<std::int64_t>(1, 2 * multiprocessors() / s.heads());
  const std::int64_t parts =
      std::clamp<std::int64_t>(ceil_div(s.a.batch.capacity, kTileRows), 1, std::min<std::int64_t>(room, kMostParts));
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(s.heads()));
  if (s.a.by != SelectBy::none) s.a.top_p < 1 ? list<true>(s, grid, stream) : list<false>(s, grid, stream);
  const bool codes = s.a.by == SelectBy::labels && scores_fast(s);
  const auto write = s.a.out.tail == nullptr ? write_list<Tails::none>
                     : codes                 ? write_list<Tails::codes>
                                             : write_list<Tails::scores>;
  Launch{.grid = grid, .block = kThreads, .stream = stream, .overlap = true}(write, s);
}

}  // namespace longhaul::cuda
