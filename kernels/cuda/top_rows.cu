// The exact top of a head's keys, ascending, equal keys from the lower row. Scoring has counted the keys' first digit;
// blocks share a head's rows. Each finds the digit of the threshold and lists its rows that have it, few as a rule; the
// block that comes last of a head's finds among these the threshold itself, and where each block's rows go. The others
// wait for it, their keys at hand, and then all write their part of the list. The last of these writes its tail.
#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/listed_rows.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/tail.cuh"

namespace longhaul::cuda {
namespace {

using namespace top;

constexpr int kBlocks = 2;  // on a processor

/// A thread's keys of a tile. A warp has 512 rows of it, its lanes 4 neighbours of each 128.
struct Tile {
  static constexpr int kRuns = kPerThread / 4;
  uint4 runs[kRuns];
  int first;

  __device__ void read(const std::uint32_t* keys, int from, int end) {
    const int t = static_cast<int>(threadIdx.x);
    first = from + t / 32 * 32 * kPerThread + t % 32 * 4;
#pragma unroll
    for (int i = 0; i < kRuns; ++i) runs[i] = keys_at(keys, first + i * 128, end);
  }
  __device__ int row(int i, int j) const { return first + i * 128 + j; }
};

/// Whether this block is the last of a head's that come here, to all of its threads; what the others wrote before is
/// then visible.
__device__ bool comes_last(std::uint32_t& count) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(&count, 1u) + 1 == gridDim.x;
    __threadfence();
  }
  __syncthreads();
  return last;
}

/// Counts the part's rows above the threshold's first digit and lists those that have it; then the threshold is found,
/// by this block or another. They all run, as those of score_units (label_softmax.cuh): there are no more of them than
/// fit the device.
template <bool Mass>
__device__ void find_threshold(const Selection& s, const Part& part, Tile& tile, SeekShared<Mass>& shared) {
  __shared__ std::uint32_t listed, above;
  HeadTally& tally = s.tallies[part.head];
  const std::uint32_t* keys = s.keys + part.head * s.stride;
  std::int32_t* list = s.lists + part.head * s.stride + part.begin;
  const int end = min(part.end, part.c.tail);
  if (threadIdx.x == 0) listed = above = 0;
  const Wanted wanted = wanted_of<Mass>(s, part, shared.finder);
  Digit digit{-1, 0, {0, 0}};
  if (wanted.mass > 0) digit = find<Mass>(tally.counts, tally.masses, wanted, shared.finder);
  __syncthreads();  // `listed` and `above` are 0
  std::uint32_t higher = 0;
#pragma unroll 1
  for (int from = part.begin; wanted.mass > 0 && from < end; from += kTileRows) {
    if (from != part.begin) tile.read(keys, from, end);
    std::uint32_t equal = 0;  // a bit a row
#pragma unroll
    for (int i = 0; i < Tile::kRuns; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = tile.row(i, j);
        const std::uint32_t key = element(tile.runs[i], j);
        const int bin = static_cast<int>(key >> s.digit_shift & (kDigitBins - 1));
        const bool competes = row < end && row >= part.c.head && key >= s.lowest;
        equal |= static_cast<std::uint32_t>(competes && bin == digit.bin) << (4 * i + j);
        higher += competes && bin > digit.bin;
      }
#pragma unroll 1
    for (; equal != 0; equal &= equal - 1) {
      const int bit = __ffs(static_cast<int>(equal)) - 1;
      list[atomicAdd(&listed, 1u)] = tile.row(bit / 4, bit % 4);
    }
  }
  if (higher > 0) atomicAdd(&above, higher);
  __syncthreads();
  if (threadIdx.x == 0) tally.parts[part.index].above = above, tally.parts[part.index].listed = listed;
  if (comes_last(tally.listed_parts)) Seeker<Mass>(s, part, shared).run(digit);
  else if (threadIdx.x == 0) wait_for(tally.found);
  __syncthreads();
}

enum class Tails : std::uint8_t { none, codes, scores };  // codes: of score_codes' shares

template <bool Mass, Tails Tail>
__global__ void __launch_bounds__(kThreads, kBlocks) list_rows(const __grid_constant__ Selection s) {
  extern __shared__ uint4 space[];
  __shared__ std::uint32_t warp_rows[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Part part(s);
  const Competition& c = part.c;
  const std::uint32_t* keys = s.keys + part.head * s.stride;
  std::int32_t* out = s.a.out.rows + part.head * s.a.out.stride;
  HeadTally& tally = s.tallies[part.head];
  const int scored = c.open() ? min(part.end, c.tail) : 0;
  wait_for_previous();
  let_next_start();
  Tile tile;
  tile.read(keys, part.begin, scored);
  Threshold threshold;
  int at = c.given_before(part.begin);
  if (c.open()) {
    find_threshold<Mass>(s, part, tile, *reinterpret_cast<SeekShared<Mass>*>(space));
    threshold = {__ldcg(&tally.key), __ldcg(&tally.last)};
    at += static_cast<int>(__ldcg(&tally.parts[part.index].before));
  }
  const int part_at = at;
#pragma unroll 1
  for (int from = part.begin; from < part.end; from += kTileRows) {
    if (part.end - part.begin > kTileRows) tile.read(keys, from, scored);
    std::uint32_t taken = 0, counts = 0;  // a bit a row; a byte of each run
#pragma unroll
    for (int i = 0; i < Tile::kRuns; ++i) {
      std::uint32_t some = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = tile.row(i, j);
        const bool in = row < c.head || row >= c.tail || threshold.takes(element(tile.runs[i], j), row);
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
    for (int i = 0; i < Tile::kRuns; ++i) {
      int to = run + static_cast<int>(earlier >> (8 * i) & 255);
#pragma unroll 1
      for (std::uint32_t bits = taken >> (4 * i) & 15; bits != 0; bits &= bits - 1)
        out[to++] = tile.row(i, __ffs(static_cast<int>(bits)) - 1);
      run += static_cast<int>(totals >> (8 * i) & 255);
    }
  }
  // The last part to have rows knows how many there are in all.
  if (threadIdx.x == 0 && part.begin < part.end && part.end == c.rows) s.a.out.count[part.head] = at;
  if (threadIdx.x == 0 && c.rows == 0 && part.index == 0) s.a.out.count[part.head] = 0;
  if (!c.open()) {
    if (Tail != Tails::none && part.index == 0 && threadIdx.x < s.group)
      s.a.out.tail[part.head * s.group + threadIdx.x] = kNoTail;
    return;
  }
  if constexpr (Tail == Tails::codes) {
    const int group = static_cast<int>(s.group);
    const std::uint32_t* shares = s.shares + part.head * s.stride / 2 * group;
    ListedShares listed;
    __syncthreads();  // the part's rows are written
    for (int i = part_at + static_cast<int>(threadIdx.x); i < at; i += kThreads)
      if (const int row = out[i]; row < c.tail) listed.add(shares, group, row);
    listed.store(group, tally.shares[part.index]);
  }
  __threadfence();
  if (!comes_last(tally.written_parts)) return;
  if (threadIdx.x == 0) tally.listed_parts = tally.written_parts = tally.found = 0;
  if (Tail == Tails::codes) write_tail(s, part.head, static_cast<int>(gridDim.x));
  if (Tail == Tails::scores) write_tail_of_scores(s, part.head, part.place);
}

/// Those that fit a processor beside each other, no more than kBlocks.
template <bool Mass, Tails Tail>
int blocks_of_processor() {
  constexpr std::size_t kBytes = sizeof(SeekShared<Mass>);
  int fit = 0;
  check(cudaFuncSetAttribute(list_rows<Mass, Tail>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fit, list_rows<Mass, Tail>, kThreads, kBytes));
  return std::clamp(fit, 1, kBlocks);
}

template <bool Mass, Tails Tail>
void launch(const Selection& s, cudaStream_t stream) {
  // A tile a block where all of them run at once; lists do not depend on it.
  const std::int64_t room = std::max<std::int64_t>(1, blocks_of_processor<Mass, Tail>() * s.blocks / s.heads());
  const std::int64_t parts =
      std::clamp<std::int64_t>(ceil_div(s.a.batch.capacity, kTileRows), 1, std::min<std::int64_t>(room, kMostParts));
  Launch{.grid = dim3(static_cast<unsigned>(parts), static_cast<unsigned>(s.heads())),
         .block = kThreads,
         .shared_bytes = sizeof(SeekShared<Mass>),
         .stream = stream,
         .overlap = !s.hint}(list_rows<Mass, Tail>, s);
}

template <bool Mass>
void launch(const Selection& s, cudaStream_t stream) {
  if (s.a.out.tail == nullptr) launch<Mass, Tails::none>(s, stream);
  else if (s.a.by == SelectBy::labels && scores_fast(s)) launch<Mass, Tails::codes>(s, stream);
  else launch<Mass, Tails::scores>(s, stream);
}

}  // namespace

void top_rows(const Selection& s, cudaStream_t stream) {
  s.a.by != SelectBy::none&& s.a.top_p < 1 ? launch<true>(s, stream) : launch<false>(s, stream);
}

}  // namespace longhaul::cuda
