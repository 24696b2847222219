// The exact top of a head's keys, ascending, equal keys from the lower row. Scoring has counted the keys' first digit;
// blocks share a head's rows. The first launch finds the digit of the threshold and lists the rows that have it, few as
// a rule; the second looks at these alone for the threshold itself, each block for itself, and writes the list.
#include <cuda_pipeline.h>

#include <algorithm>
#include <bit>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/select.cuh"
#include "kernels/cuda/threshold.cuh"

namespace longhaul::cuda {
namespace {

using namespace top;

/// Counts the part's rows above the threshold's first digit, and lists those that have it.
template <bool Mass>
__global__ void __launch_bounds__(kThreads) list_digit(const __grid_constant__ Selection s) {
  __shared__ Finder shared;
  __shared__ std::uint32_t listed;
  let_next_start();
  const Part part(s);
  if (!part.c.open()) return;
  HeadTally& tally = s.tallies[part.head];
  const std::uint32_t* keys = s.keys + part.head * s.stride;
  std::int32_t* list = s.lists + part.head * s.stride + part.begin;
  const int end = min(part.end, part.c.tail), mine = static_cast<int>(threadIdx.x) * 4;
  uint4 held[kPerThread / 4];
  auto read = [&](int from) {
#pragma unroll
    for (int i = 0; i < kPerThread / 4; ++i) held[i] = keys_at(keys, from + i * kThreads * 4 + mine, end);
  };
  wait_for_previous();
  read(part.begin);
  if (threadIdx.x == 0) listed = 0;
  const Wanted wanted = wanted_of<Mass>(s, part, shared);
  Digit digit{-1, 0, {0, 0}};
  if (wanted.mass > 0) digit = find<Mass>(tally.counts, tally.masses, wanted, shared);
  std::uint32_t above = 0;
  for (int from = part.begin; wanted.mass > 0 && from < end; from += kTileRows) {
    if (from != part.begin) read(from);
#pragma unroll
    for (int i = 0; i < kPerThread / 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = from + i * kThreads * 4 + mine + j;
        const std::uint32_t key = element(held[i], j);
        const int bin = static_cast<int>(key >> s.digit_shift & (kDigitBins - 1));
        if (row >= end || row < part.c.head || key < s.lowest || bin < digit.bin) continue;
        if (bin == digit.bin) list[atomicAdd(&listed, 1u)] = row;
        else ++above;
      }
  }
  above = Finder::Reduce(shared.reduce).Sum(above);
  if (threadIdx.x > 0) return;
  tally.parts[part.index] = {above, listed};
  if (part.index == 0)
    tally.bin = digit.bin, tally.count = digit.count, tally.rows = digit.left.rows,
    tally.mass_left = wanted.mass > 0 ? digit.left.mass : 0;
}

/// Taken are the rows of a higher key than `key`, and those of that key up to `last`.
struct Threshold {
  std::uint32_t key = ~std::uint32_t{0};
  int last = -1;
  __device__ bool takes(std::uint32_t k, int row) const { return k > key || (k == key && row <= last); }
};

template <bool Mass>
struct EmitShared {
  Finder finder;
  Bins<Mass> bins;
  std::uint32_t ends[kMostParts];  // listed rows of the parts up to each
  std::uint32_t above[kMostParts];
  std::uint32_t warp_rows[kWarps];
  std::uint32_t held_keys[kHeld];
  std::int32_t held_rows[kHeld];
  alignas(16) std::uint32_t tile[kTileRows];  // the keys of the part's first
};

template <bool Mass>
class Emitter {
 public:
  __device__ Emitter(const Selection& s, EmitShared<Mass>& shared)
      : s_(s), shared_(shared), part_(s), tally_(s.tallies[part_.head]), keys_(s.keys + part_.head * s.stride) {}

  __device__ void run() {
    wait_for_previous();
    int before = 0;  // competing rows that are taken in earlier parts
    if (part_.c.open()) {
      fetch();
      gather();
      seek();
      before = taken_before();
      __pipeline_wait_prior(0);
      __syncthreads();
    }
    emit(before + part_.c.given_before(part_.begin));
  }

 private:
  /// The first tile's keys, needed last, on their way to shared memory.
  __device__ void fetch() {
    const int end = min(part_.end, part_.c.tail);
#pragma unroll
    for (int i = 0; i < kPerThread / 4; ++i) {
      const int at = (i * kThreads + static_cast<int>(threadIdx.x)) * 4;
      if (part_.begin + at < end) __pipeline_memcpy_async(shared_.tile + at, keys_ + part_.begin + at, 16);
    }
    __pipeline_commit();
  }

  /// Brings the listed rows and their keys together.
  __device__ void gather() {
    const int parts = static_cast<int>(gridDim.x), t = static_cast<int>(threadIdx.x);
    if (t < kMostParts) {
      const HeadTally::Part p = t < parts ? tally_.parts[t] : HeadTally::Part{0, 0};
      shared_.ends[t] = p.listed, shared_.above[t] = p.above;
    }
    __syncthreads();
    if (t < 32) {  // the sum up to each, two a lane
      static_assert(kMostParts == 64);
      const std::uint32_t x = shared_.ends[2 * t], y = shared_.ends[2 * t + 1];
      std::uint32_t sum = x + y;
      for (int o = 1; o < 32; o *= 2) {
        const std::uint32_t lower = __shfl_up_sync(~0u, sum, o);
        if (t >= o) sum += lower;
      }
      shared_.ends[2 * t] = sum - y, shared_.ends[2 * t + 1] = sum;
    }
    __syncthreads();
    listed_ = static_cast<int>(shared_.ends[kMostParts - 1]);
    for (int i = t; i < min(listed_, kHeld); i += kThreads) {
      const int row = listed_row(i);
      shared_.held_rows[i] = row, shared_.held_keys[i] = keys_[row];
    }
    __syncthreads();
  }
  __device__ int listed_row(int i) const {
    int low = 0, high = static_cast<int>(gridDim.x) - 1;  // the first part that ends after it
    while (low < high) {
      const int middle = (low + high) / 2;
      if (static_cast<int>(shared_.ends[middle]) > i) high = middle;
      else low = middle + 1;
    }
    const int first = low > 0 ? static_cast<int>(shared_.ends[low - 1]) : 0;
    const std::int32_t* list = s_.lists + part_.head * s_.stride;
    return list[low * part_.length + i - first];
  }
  /// body(key, row) for the first n listed rows.
  template <class Body>
  __device__ void each_listed(int n, const Body& body) const {
    for (int i = threadIdx.x; i < n; i += kThreads) {
      if (i < kHeld) {
        body(shared_.held_keys[i], shared_.held_rows[i]);
      } else {
        const int row = listed_row(i);
        body(keys_[row], row);
      }
    }
  }

  __device__ void seek() {
    Digit digit{tally_.bin, tally_.count, {tally_.rows, tally_.mass_left}};
    if (digit.left.mass == 0) return;
    if (digit.bin < 0) {
      threshold_ = {s_.lowest, kMostRow};
      return;
    }
    std::uint32_t prefix = (s_.softmax ? 0x80000000u : 0) | static_cast<std::uint32_t>(digit.bin) << s_.digit_shift;
    int shift = s_.digit_shift;
    auto whole = [&] { return !Mass && digit.count == digit.left.rows; };
    while (shift > 0 && !whole()) {
      const int bits = min(11, shift);
      shift -= bits;
      count([&](std::uint32_t key, int) {
        return (key ^ prefix) >> shift >> bits == 0 ? static_cast<int>(key >> shift & ((1u << bits) - 1)) : -1;
      });
      digit = find<Mass>(shared_.bins.counts, masses(), digit.left, shared_.finder);
      if (digit.bin < 0) break;
      prefix |= static_cast<std::uint32_t>(digit.bin) << shift;
    }
    threshold_ = {max(prefix, s_.lowest), kMostRow};
    if (shift > 0 || digit.bin < 0) return;
    std::int64_t equal = digit.left.rows;
    if constexpr (Mass) {
      if (const Units each = units_of(prefix, tally_.mass); each > 0) {
        const auto needed = static_cast<std::int64_t>((digit.left.mass + each - 1) / each);
        equal = needed < equal ? needed : equal;
      }
    }
    if (equal < digit.count) threshold_.last = last_of_equals(prefix, equal);
  }

  /// The equal-th row, from the lowest, of those with this key.
  __device__ int last_of_equals(std::uint32_t equal_key, std::int64_t equal) {
    Digit digit{0, 0, {equal, ~Units{0}}};
    std::uint32_t prefix = 0;
    for (int shift = 22; shift >= 0; shift -= 11) {
      if (static_cast<std::uint32_t>(part_.c.rows) >> shift == 0) continue;
      count([&](std::uint32_t key, int row) {
        const auto r = static_cast<std::uint32_t>(row);
        if (key != equal_key || (r ^ prefix) >> shift >> 11 != 0) return -1;
        return kDigitBins - 1 - static_cast<int>(r >> shift & (kDigitBins - 1));
      });
      digit = find<false>(shared_.bins.counts, nullptr, digit.left, shared_.finder);
      prefix |= static_cast<std::uint32_t>(kDigitBins - 1 - digit.bin) << shift;
    }
    return static_cast<int>(prefix);
  }

  __device__ const Units* masses() const {
    if constexpr (Mass) return shared_.bins.masses;
    else return nullptr;
  }

  /// Counts the listed rows by bin_of(key, row); -1: not at all.
  template <class BinOf>
  __device__ void count(const BinOf& bin_of) {
    for (int i = threadIdx.x; i < kDigitBins; i += kThreads) {
      shared_.bins.counts[i] = 0;
      if constexpr (Mass) shared_.bins.masses[i] = 0;
    }
    __syncthreads();
    each_listed(listed_, [&](std::uint32_t key, int row) {
      const int bin = bin_of(key, row);
      if (bin < 0) return;
      atomicAdd(&shared_.bins.counts[bin], 1u);
      if constexpr (Mass) atomicAdd(&shared_.bins.masses[bin], units_of(key, tally_.mass));
    });
    __syncthreads();
  }

  __device__ int taken_before() {
    const int mine = part_.index;
    std::uint32_t taken = static_cast<int>(threadIdx.x) < mine ? shared_.above[threadIdx.x] : 0;
    each_listed(mine > 0 ? static_cast<int>(shared_.ends[mine - 1]) : 0,
                [&](std::uint32_t key, int row) { taken += threshold_.takes(key, row); });
    taken = Finder::Reduce(shared_.finder.reduce).Sum(taken);
    if (threadIdx.x == 0) shared_.finder.total = taken;
    __syncthreads();
    return static_cast<int>(shared_.finder.total);
  }

  /// A warp has 512 rows of a tile, its lanes 4 neighbours of each 128.
  __device__ void emit(int at) {
    constexpr int kRuns = kPerThread / 4;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Competition& c = part_.c;
    std::int32_t* out = s_.a.out.rows + part_.head * s_.a.out.stride;
    for (int from = part_.begin; from < part_.end; from += kTileRows) {
      const int first = from + warp * 32 * kPerThread + lane * 4;
      const int scored = c.open() ? min(part_.end, c.tail) : 0;
      uint4 held[kRuns];
#pragma unroll
      for (int i = 0; i < kRuns; ++i) {
        const int row = first + i * 128;
        held[i] = from == part_.begin && row < scored ? *reinterpret_cast<const uint4*>(shared_.tile + row - from)
                                                      : keys_at(keys_, row, scored);
      }
      std::uint32_t taken = 0, counts = 0;  // a bit a row; a byte of each run
#pragma unroll
      for (int i = 0; i < kRuns; ++i) {
        std::uint32_t some = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int row = first + i * 128 + j;
          const bool in = row < c.head || row >= c.tail || threshold_.takes(element(held[i], j), row);
          some |= static_cast<std::uint32_t>(in && row < part_.end) << j;
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
      if (lane == 0)
        shared_.warp_rows[warp] = (totals & 255) + (totals >> 8 & 255) + (totals >> 16 & 255) + (totals >> 24);
      __syncthreads();
      const std::uint32_t rows = shared_.warp_rows[lane];
      const int before = static_cast<int>(__reduce_add_sync(~0u, lane < warp ? rows : 0u));
      const int all = static_cast<int>(__reduce_add_sync(~0u, rows));
      int run = at + before;
      const std::uint32_t earlier = sums - counts;
#pragma unroll
      for (int i = 0; i < kRuns; ++i) {
        int to = run + static_cast<int>(earlier >> (8 * i) & 255);
        for (std::uint32_t bits = taken >> (4 * i) & 15; bits != 0; bits &= bits - 1)
          out[to++] = first + i * 128 + __ffs(static_cast<int>(bits)) - 1;
        run += static_cast<int>(totals >> (8 * i) & 255);
      }
      at += all;
    }
    // The last part to have rows knows how many there are in all.
    if (threadIdx.x == 0 && part_.begin < part_.end && part_.end == c.rows) s_.a.out.count[part_.head] = at;
    if (threadIdx.x == 0 && c.rows == 0 && part_.index == 0) s_.a.out.count[part_.head] = 0;
  }

  const Selection& s_;
  EmitShared<Mass>& shared_;
  const Part part_;
  const HeadTally& tally_;
  const std::uint32_t* keys_;
  int listed_ = 0;
  Threshold threshold_;
};

template <bool Mass>
__global__ void __launch_bounds__(kThreads) write_list(const __grid_constant__ Selection s) {
  extern __shared__ uint4 space[];
  Emitter<Mass>(s, *reinterpret_cast<EmitShared<Mass>*>(space)).run();
}

template <bool Mass>
void launch(const Selection& s, dim3 grid, cudaStream_t stream) {
  const bool competing = s.a.by != SelectBy::none;
  if (competing) Launch{.grid = grid, .block = kThreads, .stream = stream, .overlap = true}(list_digit<Mass>, s);
  Launch{.grid = grid,
         .block = kThreads,
         .shared_bytes = sizeof(EmitShared<Mass>),
         .stream = stream,
         .overlap = competing}(write_list<Mass>, s);
}

}  // namespace

void top_rows(const Selection& s, cudaStream_t stream) {
  // A tile a block where that is no more than two blocks a multiprocessor; lists do not depend on it.
  const std::int64_t room = std::max<std::int64_t>(1, 2 * multiprocessors() / s.heads());
  const std::int64_t parts =
      std::clamp<std::int64_t>(ceil_div(s.a.batch.capacity, kTileRows), 1, std::min<std::int64_t>(room, kMostParts));
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(s.heads()));
  s.a.top_p < 1 && s.a.by != SelectBy::none ? launch<true>(s, grid, stream) : launch<false>(s, grid, stream);
}

}  // namespace longhaul::cuda
