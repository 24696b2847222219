// The rows that have the threshold's first digit, and the threshold among them: what the block that comes last of a
// head's does for all. Device code only.
#pragma once
#include "kernels/cuda/threshold.cuh"

namespace longhaul::cuda::top {

template <bool Mass>
struct SeekShared {
  Finder finder;
  alignas(16) Bins<Mass> bins;
  std::uint32_t ends[kMostParts];   // listed rows of the parts up to each
  std::uint32_t taken[kMostParts];  // rows of each
  std::uint32_t held_keys[kHeld];
  std::int32_t held_rows[kHeld];
};

template <bool Mass>
class Seeker {
 public:
  __device__ Seeker(const Selection& s, const Part& part, SeekShared<Mass>& shared)
      : s_(s), part_(part), shared_(shared), tally_(s.tallies[part.head]), keys_(s.keys + part.head * s.stride) {}

  /// By the whole block, when all parts are listed: the threshold, and where each part's rows begin.
  __device__ void run(const Digit& first) {
    gather();
    seek(first);
    place();
  }

 private:
  /// Brings the listed rows and their keys together.
  __device__ void gather() {
    const int parts = static_cast<int>(gridDim.x), t = static_cast<int>(threadIdx.x);
    if (t < kMostParts) {
      shared_.ends[t] = t < parts ? __ldcg(&tally_.parts[t].listed) : 0;
      shared_.taken[t] = t < parts ? __ldcg(&tally_.parts[t].above) : 0;
    }
    sum_up(shared_.ends);
    listed_ = static_cast<int>(shared_.ends[kMostParts - 1]);
#pragma unroll 4
    for (int i = t; i < min(listed_, kHeld); i += kThreads) {
      const int row = listed_row(i);
      shared_.held_rows[i] = row, shared_.held_keys[i] = __ldcg(keys_ + row);
    }
    __syncthreads();
  }
  /// Each becomes the sum up to it; the block meets before and after.
  __device__ static void sum_up(std::uint32_t (&x)[kMostParts]) {
    static_assert(kMostParts == 64);
    __syncthreads();
    if (const int t = static_cast<int>(threadIdx.x); t < 32) {
      const std::uint32_t second = x[2 * t + 1];
      std::uint32_t sum = x[2 * t] + second;
#pragma unroll
      for (int o = 1; o < 32; o *= 2) {
        const std::uint32_t lower = __shfl_up_sync(~0u, sum, o);
        if (t >= o) sum += lower;
      }
      x[2 * t] = sum - second, x[2 * t + 1] = sum;
    }
    __syncthreads();
  }
  __device__ int listed_row(int i) const {
    int low = 0;  // the first part that ends after it
#pragma unroll 1
    for (int step = kMostParts / 2; step > 0; step /= 2)
      if (static_cast<int>(shared_.ends[low + step - 1]) <= i) low += step;
    const int first = low > 0 ? static_cast<int>(shared_.ends[low - 1]) : 0;
    return __ldcg(s_.lists + part_.head * s_.stride + low * part_.length + i - first);
  }
  /// body(key, row) for the listed rows.
  template <class Body>
  __device__ void each_listed(const Body& body) const {
#pragma unroll 1
    for (int i = threadIdx.x; i < listed_; i += kThreads) {
      const int row = i < kHeld ? shared_.held_rows[i] : listed_row(i);
      body(i < kHeld ? shared_.held_keys[i] : __ldcg(keys_ + row), row);
    }
  }

  __device__ void seek(Digit digit) {
    if (digit.left.mass == 0) return;
    if (digit.bin < 0) {
      threshold_ = {s_.lowest, kMostRow};
      return;
    }
    std::uint32_t prefix = (s_.softmax ? 0x80000000u : 0) | static_cast<std::uint32_t>(digit.bin) << s_.digit_shift;
    int shift = s_.digit_shift;
    auto whole = [&] { return !Mass && digit.count == digit.left.rows; };
#pragma unroll 1
    while (shift > 0 && !whole()) {
      const int bits = min(11, shift);
      shift -= bits;
      digit = find_among(digit.left, [&](std::uint32_t key, int) {
        return (key ^ prefix) >> shift >> bits == 0 ? static_cast<int>(key >> shift & ((1u << bits) - 1)) : -1;
      });
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
#pragma unroll 1
    for (int shift = 22; shift >= 0; shift -= 11) {
      if (static_cast<std::uint32_t>(part_.c.rows) >> shift == 0) continue;
      digit = find_among(Wanted{digit.left.rows, ~Units{0}}, [&](std::uint32_t key, int row) {
        const auto r = static_cast<std::uint32_t>(row);
        if (key != equal_key || (r ^ prefix) >> shift >> 11 != 0) return -1;
        return kDigitBins - 1 - static_cast<int>(r >> shift & (kDigitBins - 1));
      });
      prefix |= static_cast<std::uint32_t>(kDigitBins - 1 - digit.bin) << shift;
    }
    return static_cast<int>(prefix);
  }

  /// The digit of the listed rows by bin_of(key, row); -1: not counted.
  template <class BinOf>
  __device__ Digit find_among(const Wanted& wanted, const BinOf& bin_of) {
    for (int i = threadIdx.x; i < kDigitBins; i += kThreads) {
      shared_.bins.counts[i] = 0;
      if constexpr (Mass) shared_.bins.masses[i] = 0;
    }
    __syncthreads();
    each_listed([&](std::uint32_t key, int row) {
      const int bin = bin_of(key, row);
      if (bin < 0) return;
      atomicAdd(&shared_.bins.counts[bin], 1u);
      if constexpr (Mass) atomicAdd(&shared_.bins.masses[bin], units_of(key, tally_.mass));
    });
    __syncthreads();
    const uint4 n = counts_of_thread(shared_.bins.counts);
    if constexpr (Mass) return find<true>(n, shared_.bins.masses, wanted, shared_.finder);
    else return find<false>(n, nullptr, wanted, shared_.finder);
  }

  __device__ void place() {
    each_listed([&](std::uint32_t key, int row) {
      if (threshold_.takes(key, row)) atomicAdd(&shared_.taken[row / part_.length], 1u);
    });
    sum_up(shared_.taken);
    const int t = static_cast<int>(threadIdx.x);
    if (t < static_cast<int>(gridDim.x)) tally_.parts[t].before = t > 0 ? shared_.taken[t - 1] : 0;
    if (t == 0) tally_.key = threshold_.key, tally_.last = threshold_.last, tally_.listed_parts = 0;
  }

  const Selection& s_;
  const Part& part_;
  SeekShared<Mass>& shared_;
  HeadTally& tally_;
  const std::uint32_t* keys_;
  int listed_ = 0;
  Threshold threshold_;
};

}  // namespace longhaul::cuda::top
