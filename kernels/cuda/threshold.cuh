// What the blocks of top_rows share: how a digit of the threshold is found from counts, and which rows are a block's.
// Device code only.
#pragma once
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <limits>

#include "kernels/cuda/select.cuh"
#include "kernels/sampling.h"

namespace longhaul::cuda::top {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
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

struct Sum2 {
  std::uint32_t rows;
  Units mass;
};
struct Add2 {
  __device__ Sum2 operator()(const Sum2& x, const Sum2& y) const { return {x.rows + y.rows, x.mass + y.mass}; }
};

struct Finder {
  using Scan = cub::BlockScan<std::uint32_t, kThreads>;
  using MassScan = cub::BlockScan<Sum2, kThreads>;
  using Reduce = cub::BlockReduce<std::uint32_t, kThreads>;
  using MassReduce = cub::BlockReduce<Units, kThreads>;
  union {
    typename Scan::TempStorage scan;
    typename MassScan::TempStorage mass_scan;
    typename Reduce::TempStorage reduce;
    typename MassReduce::TempStorage mass_reduce;
  };
  Digit digit;
  std::uint32_t total;
  Units mass;
};

/// The highest bin from which on there is what is wanted. All threads get it.
template <bool Mass>
__device__ Digit find(const std::uint32_t* counts, const Units* masses, const Wanted& wanted, Finder& shared) {
  static_assert(kDigitBins == 2 * kThreads);
  const int low = kDigitBins - 2 - 2 * static_cast<int>(threadIdx.x);  // this thread's bins: low + 1, low
  const uint2 n = *reinterpret_cast<const uint2*>(counts + low);
  if (threadIdx.x == 0) shared.digit = {-1, 0, wanted};
  std::uint32_t before;
  Units mass_before = 0, mass_of[2] = {};
  __syncthreads();
  if constexpr (Mass) {
    mass_of[0] = masses[low + 1], mass_of[1] = masses[low];
    Sum2 sum{n.x + n.y, mass_of[0] + mass_of[1]}, ahead;
    Finder::MassScan(shared.mass_scan).ExclusiveScan(sum, ahead, Sum2{0, 0}, Add2{});
    before = ahead.rows, mass_before = ahead.mass;
  } else {
    Finder::Scan(shared.scan).ExclusiveSum(n.x + n.y, before);
  }
  const std::uint32_t count_of[2] = {n.y, n.x};
  for (int i = 0; i < 2; ++i) {
    const bool open = before < wanted.rows && mass_before < wanted.mass;
    const Wanted left{wanted.rows - before, wanted.mass - mass_before};
    if (open && (count_of[i] >= left.rows || (Mass && mass_of[i] >= left.mass)))
      shared.digit = {low + 1 - i, count_of[i], Mass ? left : Wanted{left.rows, wanted.mass}};
    before += count_of[i], mass_before += mass_of[i];
  }
  __syncthreads();
  const Digit digit = shared.digit;
  __syncthreads();
  return digit;
}

/// A block's part of a head's rows.
struct Part {
  std::int64_t head;
  int place, index, begin, end, length;
  Competition c;
  __device__ explicit Part(const Selection& s) {
    head = blockIdx.y, index = static_cast<int>(blockIdx.x);
    place = static_cast<int>(head / s.a.kv_heads);
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
      x = Finder::MassReduce(shared.mass_reduce).Sum(x);
      if (threadIdx.x == 0) shared.mass = x;
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

__device__ inline uint4 keys_at(const std::uint32_t* keys, int row, int end) {
  return row < end ? *reinterpret_cast<const uint4*>(keys + row) : make_uint4(0, 0, 0, 0);
}
__device__ inline std::uint32_t element(const uint4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

}  // namespace longhaul::cuda::top
