// Label scores to keys, and how many keys there are of each first digit. Device code only.
#pragma once
#include "kernels/cuda/label_scorer.cuh"

namespace longhaul::cuda::labels {

/// Adds 1 to a word of shared memory, without a branch.
__device__ inline void count_one(std::uint32_t at, bool is) {
  asm volatile("{\n\t.reg .pred is;\n\tsetp.ne.u32 is, %1, 0;\n\t@is red.shared.add.u32 [%0], 1;\n\t}" ::"r"(at),
               "r"(static_cast<int>(is))
               : "memory");
}

template <int K, int Quads, Keys Kind, bool Forms>
template <bool Highest>
__device__ void Scorer<K, Quads, Kind, Forms>::write_keys(int first, bool in_ring) {
  const int shift = kSoftmax ? kShareShift : s_.digit_shift;
  const int head = head_of(at_), row = at_.index * kUnitRows + lane_ * 2, rows = rows_from(at_);
  const Competition c = shared_.places[at_.place];
  const std::uint32_t counts = shared_address(shared_.counts[head - first]);
  const HeadWeights& weights = weights_of(head, form_of(at_));
  bool scaled = kTwice;  // what is kept is powers over a base; else scores
  float factor[kQueries], log_sum[kQueries];
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
    factor[g] = weights.factor[g] * (lane_ < 16 ? 1.0f : 0.0625f);
    log_sum[g] = kSoftmax ? shared_.log_sum[head - first][g] : 0;
    if constexpr (Forms) log_sum[g] -= weights.offset[g];
    if (kTwice && weights.base[g] == INFINITY) scaled = false;
  }
  if (scaled)
#pragma unroll
    for (int g = 0; g < kQueries; ++g)  // in two halves where forms have bases that may lie far from the sum
      factor[g] = exp2_fast((weights.base[g] - log_sum[g]) * (Forms ? 0.5f : 1.0f));
  const int before = c.head - row;
  const auto competing = static_cast<unsigned>(c.tail - c.head);
  const std::int64_t at = head * s_.stride + row;
  std::uint32_t* const to = s_.keys + at;
  std::uint32_t* const shares = s_.shares + at * Quads;
#pragma unroll
  for (int b = 0; b < S::kUnitBlocks; ++b) {
    if (b * kBlockRows >= rows) break;  // what lies past the last row, in its block, is for no one
    Scores x;
    if (!kTwice || in_ring) read(x, ring_ + slot_ * kSlotBytes + b * block_bytes_);
    else
#pragma unroll
      for (int g = 0; g < kQueries; ++g) x[0][g] = held_[b][0][g], x[1][g] = held_[b][1][g];
    std::uint32_t keys[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (kSoftmax) {
#pragma unroll
        for (int g = 0; g < kQueries; ++g)
          x[r][g] = !scaled ? exp2_fast(fmaf(x[r][g], factor[g], -log_sum[g]))
                    : Forms ? x[r][g] * factor[g] * factor[g]
                            : x[r][g] * factor[g];
        keys[r] = share_key(Highest ? most_of(x[r]) : sum_of(x[r]));
      } else {
        keys[r] = ordered(Forms ? fmaf(x[r][0], factor[0], -log_sum[0]) : x[r][0] * factor[0]);
      }
      count_one(counts + (keys[r] >> shift & (kDigitBins - 1)) * 4,
                static_cast<unsigned>(b * kBlockRows + r - before) < competing);
    }
    *reinterpret_cast<uint2*>(to + b * kBlockRows) = {keys[0], keys[1]};
    if constexpr (Kind == Keys::shares)
      if (group_ > 1) write_shares(shares + b * kBlockRows * Quads, keys, x);
  }
}

template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::write_shares(std::uint32_t* shares, const std::uint32_t (&keys)[2],
                                                            const Scores& x) const {
  std::uint32_t words[2 * Quads];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float scale = share_scale(keys[r]);
#pragma unroll
    for (int n = 0; n < Quads; ++n) {
      std::uint32_t bytes[4];  // the lowest of each: what is added leaves no bits for less than 1
#pragma unroll
      for (int g = 0; g < 4; ++g) bytes[g] = __float_as_uint(fmaf(x[r][n * 4 + g], scale, 0x1.8p23f));
      words[r * Quads + n] =
          __byte_perm(__byte_perm(bytes[0], bytes[1], 0x40), __byte_perm(bytes[2], bytes[3], 0x40), 0x5410);
    }
  }
  if constexpr (Quads == 1) *reinterpret_cast<uint2*>(shares) = {words[0], words[1]};
  else *reinterpret_cast<uint4*>(shares) = {words[0], words[1], words[2 * Quads - 2], words[2 * Quads - 1]};
}

template <int K, int Quads, Keys Kind, bool Forms>
__device__ void Scorer<K, Quads, Kind, Forms>::flush(int first) const {
  __syncthreads();
  constexpr int kEach = kDigitBins / kThreads;
#pragma unroll 1
  for (int head = first; head <= min(last_head_, first + kHeads - 1); ++head) {
    std::uint32_t n[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) n[i] = shared_.counts[head - first][i * kThreads + threadIdx.x];
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (n[i] > 0) atomicAdd(&s_.tallies[head].counts[i * kThreads + threadIdx.x], n[i]);
  }
}

}  // namespace longhaul::cuda::labels
