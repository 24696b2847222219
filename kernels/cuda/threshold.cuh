// What the blocks of top_rows share: how a digit of the threshold is found from counts, and which rows are a block's.
// Device code only.
#pragma once
#include <limits>

#include "kernels/cuda/select.cuh"
#include "kernels/sampling.h"

namespace longhaul::cuda::top {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kPerThread = 16;  // keys of a thread in a tile
constexpr int kTileRows = kThreads * kPerThread;
constexpr int kHeld = 8192;  // listed rows that a block keeps at hand
constexpr int kMostRow = std::numeric_limits<int>::max();

/// What the rows still to be looked at are to make up, whichever comes first.
struct Wanted {
  std::int64_t rows;
  Units mass;  // all ones without top_p
};

/// A digit of the threshold: all above it are taken, and what is left is wanted of those that have it.
struct Digit {
  int bin;              // -1: there are no more rows than wanted
  std::uint32_t count;  // rows that have it
  Wanted left;
};

template <bool Mass>
struct Bins {
  std::uint32_t counts[kDigitBins];
};
template <>
struct Bins<true> {
  std::uint32_t counts[kDigitBins];
  Units masses[kDigitBins];
};

struct Finder {
  std::uint32_t rows[kWarps];
  Units masses[kWarps];
  Digit digit;
  Units mass;
};

/// A thread's bins are this one and those below.
constexpr int kEachBins = kDigitBins / kThreads;
static_assert(kEachBins == 4);
__device__ inline int top_bin() { return kDigitBins - 1 - kEachBins * static_cast<int>(threadIdx.x); }
__device__ inline uint4 counts_of_thread(const std::uint32_t* counts) {
  return *reinterpret_cast<const uint4*>(counts + top_bin() - 3);
}

/// The highest bin from which on there is what is wanted; `n`: counts_of_thread(). All threads get it; between two
/// calls they meet.
template <bool Mass>
__device__ Digit find(const uint4& n, const Units* masses, const Wanted& wanted, Finder& shared) {
  constexpr int kEach = kEachBins;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, top = top_bin();
  const std::uint32_t count_of[kEach] = {n.w, n.z, n.y, n.x};
  Units mass_of[kEach] = {}, mass_before = 0;
  std::uint32_t before = n.x + n.y + n.z + n.w;
  if constexpr (Mass)
    for (int i = 0; i < kEach; ++i) mass_of[i] = masses[top - i], mass_before += mass_of[i];
  const std::uint32_t own = before;
  const Units own_mass = mass_before;
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {  // the sum up to each thread of the warp
    const std::uint32_t lower = __shfl_up_sync(~0u, before, o);
    if (lane >= o) before += lower;
    if constexpr (Mass) {
      const Units lower_mass = __shfl_up_sync(~0u, mass_before, o);
      if (lane >= o) mass_before += lower_mass;
    }
  }
  if (lane == 31) shared.rows[warp] = before, shared.masses[warp] = mass_before;
  if (threadIdx.x == 0) shared.digit = {-1, 0, wanted};
  __syncthreads();
  before += __reduce_add_sync(~0u, lane < warp ? shared.rows[lane] : 0u) - own;
  if constexpr (Mass) {
    mass_before -= own_mass;
    for (int w = 0; w < warp; ++w) mass_before += shared.masses[w];
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const bool open = before < wanted.rows && mass_before < wanted.mass;
    const Wanted left{wanted.rows - before, wanted.mass - mass_before};
    if (open && (count_of[i] >= left.rows || (Mass && mass_of[i] >= left.mass)))
      shared.digit = {top - i, count_of[i], Mass ? left : Wanted{left.rows, wanted.mass}};
    before += count_of[i], mass_before += mass_of[i];
  }
  __syncthreads();
  return shared.digit;
}

/// A block's part of a head's rows.
struct Part {
  std::int64_t head;
  int place, index, begin, end, length;
  Competition c;
  __device__ explicit Part(const Selection& s) {
    head = blockIdx.y, index = static_cast<int>(blockIdx.x);
    place = static_cast<int>(blockIdx.y / static_cast<unsigned>(s.a.kv_heads));
    c = competition(s.a, place);
    const int parts = static_cast<int>(gridDim.x);
    length = ((c.rows + parts - 1) / parts + kThreads - 1) / kThreads * kThreads;
    begin = min(c.rows, index * length), end = min(c.rows, begin + length);
  }
};

/// What top_p asks of the rows that compete; the rows given already hold some of it. All without.
template <bool Mass>
__device__ Wanted wanted_of(const Selection& s, const Part& part, Finder& shared) {
  if constexpr (!Mass) {
    return {part.c.wanted, ~Units{0}};
  } else {
    const HeadTally& tally = s.tallies[part.head];
    const std::uint32_t* keys = s.keys + part.head * s.stride;
    Units given = 0, total = 0;
    for (int r = threadIdx.x; r < part.c.head; r += kThreads) given += units_of(keys[r], tally.mass);
    for (int i = threadIdx.x; i < kDigitBins; i += kThreads) total += tally.masses[i];
    auto all = [&](Units x) {
      if (threadIdx.x == 0) shared.mass = 0;
      __syncthreads();
      if (x > 0) atomicAdd(&shared.mass, x);
      __syncthreads();
      x = shared.mass;
      __syncthreads();
      return x;
    };
    given = all(given);
    total = all(total) + given;
    const Units need = sampling::mass_needed(s.a.top_p, total);
    return {part.c.wanted, need > given ? need - given : 0};
  }
}

/// Past the L1 cache: what a launch reads ahead, the one before it may have there from a selection before.
__device__ inline uint4 keys_at(const std::uint32_t* keys, int row, int end) {
  return row < end ? __ldcg(reinterpret_cast<const uint4*>(keys + row)) : make_uint4(0, 0, 0, 0);
}
__device__ inline std::uint32_t element(const uint4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

/// Taken are the rows of a higher key than `key`, and those of that key up to `last`.
struct Threshold {
  std::uint32_t key = ~std::uint32_t{0};
  int last = -1;
  __device__ bool takes(std::uint32_t k, int row) const { return k > key || (k == key && row <= last); }
};

}  // namespace longhaul::cuda::top
