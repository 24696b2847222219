// Keys from scores or masses, and the counts of their first digit, where scoring has not done both at once.
#include <cub/block/block_reduce.cuh>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/select.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 512, kRows = 4096;  // of a block

/// About what a head's masses sum to: in double precision and in one order.
__global__ void __launch_bounds__(kThreads) sum_masses(const __grid_constant__ Selection s) {
  using Reduce = cub::BlockReduce<double, kThreads>;
  __shared__ typename Reduce::TempStorage shared;
  const std::int64_t head = blockIdx.x, place = head / s.a.kv_heads;
  const Competition c = competition(s.a, place);
  double sum = 1;
  if (s.a.by == SelectBy::mass) {
    const float* mass =
        s.a.mass + s.a.batch.spans[place].slot * s.a.mass_session_stride + head % s.a.kv_heads * s.a.mass_stride;
    sum = 0;
    for (int r = threadIdx.x; c.open() && r < c.tail; r += kThreads) sum += fmaxf(mass[r], 0);
    sum = Reduce(shared).Sum(sum);
  }
  if (threadIdx.x == 0) s.tallies[head].mass = sum;
}

template <bool Mass>
__global__ void __launch_bounds__(kThreads) count_rows(const __grid_constant__ Selection s, KeySource source) {
  __shared__ std::uint32_t counts[kDigitBins];
  __shared__ Units masses[Mass ? kDigitBins : 1];
  const SelectArgs& a = s.a;
  const std::int64_t head = blockIdx.y, place = head / a.kv_heads;
  const Competition c = competition(a, place);
  const int begin = static_cast<int>(blockIdx.x) * kRows, end = min(c.tail, begin + kRows);
  if (!c.open() || begin >= end) return;
  for (int i = threadIdx.x; i < kDigitBins; i += kThreads) {
    counts[i] = 0;
    if constexpr (Mass) masses[i] = 0;
  }
  __syncthreads();
  HeadTally& tally = s.tallies[head];
  std::uint32_t* keys = s.keys + head * s.stride;
  const float* scores = s.work + head * s.group * s.stride;
  const float* log_sums = s.log_sums + head * s.group;
  const float* mass = a.mass + a.batch.spans[place].slot * a.mass_session_stride + head % a.kv_heads * a.mass_stride;
  for (int r = begin + static_cast<int>(threadIdx.x); r < end; r += kThreads) {
    std::uint32_t key;
    if (source == KeySource::keys) {
      key = keys[r];
    } else if (source == KeySource::mass) {
      key = ordered(mass[r]);
    } else if (!s.softmax) {
      key = ordered(scores[r]);
    } else {
      float sum = 0;
      for (int g = 0; g < s.group; ++g) {
        const float p = exp2_fast(scores[g * s.stride + r] - log_sums[g]);
        sum = a.combine == Combine::max ? fmaxf(sum, p) : sum + p;
      }
      key = share_key(sum);
    }
    keys[r] = key;
    if (r < c.head || key < s.lowest) continue;
    const std::uint32_t bin = key >> s.digit_shift & (kDigitBins - 1);
    atomicAdd(&counts[bin], 1u);
    if constexpr (Mass) atomicAdd(&masses[bin], units_of(key, tally.mass));
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kDigitBins; i += kThreads) {
    if (counts[i] == 0) continue;
    atomicAdd(&tally.counts[i], counts[i]);
    if constexpr (Mass) atomicAdd(&tally.masses[i], masses[i]);
  }
}

}  // namespace

void count_keys(const Selection& s, KeySource source, cudaStream_t stream) {
  check(cudaMemsetAsync(s.tallies, 0, static_cast<std::size_t>(s.heads()) * sizeof(HeadTally), stream));
  const dim3 grid(static_cast<unsigned>(ceil_div(s.a.batch.capacity, kRows)), static_cast<unsigned>(s.heads()));
  if (s.a.top_p < 1) {
    Launch{.grid = static_cast<unsigned>(s.heads()), .block = kThreads, .stream = stream}(sum_masses, s);
    Launch{.grid = grid, .block = kThreads, .stream = stream}(count_rows<true>, s, source);
  } else {
    Launch{.grid = grid, .block = kThreads, .stream = stream}(count_rows<false>, s, source);
  }
}

}  // namespace longhaul::cuda
