// What the labels say of the rows that a list leaves out: of their softmax's sum what the listed rows have not got, as
// attention that exact scores would give. Device code only.
#pragma once
#include "kernels/cuda/threshold.cuh"

namespace longhaul::cuda::top {

__device__ inline float sum_lanes(float x) {
#pragma unroll
  for (int o = 16; o > 0; o /= 2) x += __shfl_xor_sync(~0u, x, o);
  return x;
}

/// What a query head's tail needs besides the list: by a warp, which may ask when scores are there.
struct TailBase {
  float log_sum, beside, weight;

  __device__ void load(const Selection& s, std::int64_t g) {
    const SelectArgs& a = s.a;
    const std::int64_t token = g / a.q_heads, h = g % a.q_heads / s.group;
    const int lane = threadIdx.x % 32, d = static_cast<int>(a.head_dim);
    const TailFit fit =
        tail_fit(a.labels.basis + a.batch.spans[token].slot * a.labels.basis_stride, a.kv_heads, d, a.labels.dims);
    beside = 0;
    for (int c = lane; c < d; c += 32) {
      const std::int64_t at = token * a.q_stride + g % a.q_heads * d + c;
      const float q =
          a.act == DType::bf16 ? widen(static_cast<const bf16*>(a.q)[at]) : static_cast<const float*>(a.q)[at];
      beside += q * fit.beside[h * d + c];
    }
    beside = sum_lanes(beside) * a.scale;
    weight = fit.weights[g % a.q_heads];
    log_sum = s.log_sums[g] - log2f(shared_by(s));
  }
  /// What a softmax counts of a mean over a group's heads is this times as much of its own.
  __device__ static float shared_by(const Selection& s) {
    return s.a.combine == Combine::mean ? static_cast<float>(s.group) : 1.0f;
  }
};

/// By a warp, for a query head whose listed rows have `listed` of what its keys count.
__device__ inline void put_tail(const Selection& s, std::int64_t g, const TailBase& base, float listed) {
  constexpr float kLn2 = 0.6931471805599453f;
  const float rest = (1 - listed * TailBase::shared_by(s)) * base.weight;
  const float log = (base.log_sum + log2f(rest)) * kLn2 + base.beside;
  if (threadIdx.x % 32 == 0) s.a.out.tail[g] = isfinite(log) ? log : kNoTail;
}

/// What a thread's listed rows have of the softmax of each of up to 8 query heads, as score_codes has left it.
struct ListedShares {
  float sums[8] = {};

  /// `shares`, `keys`: of the KV head.
  __device__ void add(const std::uint32_t* shares, const std::uint32_t* keys, int group, std::int64_t row) {
    const std::uint32_t key = __ldcg(keys + row);
    if (group == 1) {
      sums[0] += value_of(key);
      return;
    }
    const float unit = share_unit(key);
    uint2 words{};
    if (group > 4) words = __ldcg(reinterpret_cast<const uint2*>(shares) + row);
    else words.x = __ldcg(shares + row);
#pragma unroll
    for (int g = 0; g < 8; ++g) sums[g] += static_cast<float>((g < 4 ? words.x : words.y) >> 8 * (g % 4) & 255) * unit;
  }
  /// Of the whole block, which meets, to one place a head.
  __device__ void store(int group, float* out) {
    __shared__ float warp_sums[kWarps][8];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int g = 0; g < 8; ++g) {
      if (g >= group) break;
      sums[g] = sum_lanes(sums[g]);
      if (lane == 0) warp_sums[warp][g] = sums[g];
    }
    __syncthreads();
    if (warp < group) {
      const float sum = sum_lanes(lane < kWarps ? warp_sums[lane][warp] : 0);
      if (lane == 0) out[warp] = sum;
    }
  }
};

/// Of a token's KV head, by the block that comes last, from what the parts' rows have; `base`: of the warp's query
/// head.
__device__ inline void write_tail(const Selection& s, std::int64_t head, const TailBase& base, int parts) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = static_cast<int>(s.group);
  static_assert(kMostParts == 64);
  if (warp >= group) return;
  const auto& shares = s.tallies[head].shares;
  const float first = lane < parts ? __ldcg(&shares[lane][warp]) : 0;
  const float second = lane + 32 < parts ? __ldcg(&shares[lane + 32][warp]) : 0;
  put_tail(s, head * group + warp, base, sum_lanes(first + second));
}

/// The same from scores and their sums, of the list that is there.
__device__ inline void write_tail_of_scores(const Selection& s, std::int64_t head, int place) {
  __shared__ float warp_sums[kWarps];
  const SelectArgs& a = s.a;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = static_cast<int>(s.group);
  const std::int32_t* rows = a.out.rows + head * a.out.stride;
  const int count = __ldcg(a.out.count + head) - a.batch.spans[place].window;
  for (int g = 0; g < group; ++g) {
    const std::int64_t q = head * group + g;
    float sum = 0;
    for (int i = threadIdx.x; i < count; i += kThreads)
      sum += exp2_fast(s.work[q * s.stride + __ldcg(rows + i)] - s.log_sums[q]);
    sum = sum_lanes(sum);
    if (lane == 0) warp_sums[warp] = sum;
    __syncthreads();
    if (warp == 0) {
      TailBase base;
      base.load(s, q);
      put_tail(s, q, base, sum_lanes(lane < kWarps ? warp_sums[lane] : 0));
    }
    __syncthreads();  // the sums have been read
  }
}

}  // namespace longhaul::cuda::top
