// judge: how much of the exact attention a list of rows keeps. For evaluation: one block of threads per token and KV
// head, which scores all rows anew for every digit of the ranking instead of keeping their scores.
#include <cmath>

#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/forms.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/row_codes.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kWarps = 16, kThreads = 32 * kWarps;
constexpr int kHeads = 4;  // of a group at a time
constexpr int kBins = 2048;
constexpr int kDigits = 3;
__device__ constexpr int kShifts[kDigits] = {21, 10, 0}, kBits[kDigits] = {11, 11, 10};  // the highest first

/// The float's bits, so turned that unsigned integers are in its order; NaN below all.
__device__ unsigned ordered(float x) {
  const unsigned bits = __float_as_uint(x + 0.0f);
  return x == x ? bits ^ (static_cast<unsigned>(static_cast<int>(bits) >> 31) | 0x80000000u) : 0u;
}

/// Whether the ascending list has `row`.
__device__ bool has(const std::int32_t* list, int count, int row) {
  int begin = 0, end = count;
  while (begin < end) {
    const int middle = (begin + end) / 2;
    if (list[middle] < row) begin = middle + 1;
    else end = middle;
  }
  return begin < count && list[begin] == row;
}

/// Every thread gets the sum over the block.
__device__ double block_sum(double x) {
  __shared__ double parts[kWarps];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  __syncthreads();  // the parts before have been read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  for (double part : parts) sum += part;
  return sum;
}

/// The attention of one token and KV head over all rows, 32 rows of a warp at a time. Where a product is added it says
/// how, so that a row's probability has the same bits wherever it is computed.
template <RowType type, class T>
struct Attention {
  using Reader = RowReader<type, T>;
  const std::byte* data;
  std::int64_t bytes;  // of a row
  const float* q;      // [forms, group, d], scaled, in shared memory
  FormBorders borders;
  float* scores;      // [kHeads, 32] of this warp
  float *m, *factor;  // [group]: a row's probability is exp(s - m) * factor, factors being 1 / (l * group)
  int rows, d, group;

  /// This lane's row's scores with heads [g0, g0 + 4) of the group; rows [first, first + 32). Four lanes share a row's
  /// loads, and each has four rows, which share those of the queries.
  __device__ void score(int first, int g0, float (&out)[kHeads]) const {
    constexpr int kAhead = sizeof(T) == 2 ? 2 : 1;                // runs of 32 elements of a row under way
    const float* query = q + borders.form_of(first) * group * d;  // the rows are of one chunk
    const int lane = threadIdx.x % 32, part = lane % 4, row = first + lane / 4;
    float s[4][kHeads] = {};
    for (int c0 = part * 8; c0 < d; c0 += 32 * kAhead) {
      typename Reader::Raw k[kAhead][4];
#pragma unroll
      for (int n = 0; n < kAhead; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          k[n][i] = {};
          if (row + 8 * i < rows && c0 + 32 * n < d)
            k[n][i] = Reader::load(data + (row + 8 * i) * bytes, d, c0 + 32 * n);
        }
#pragma unroll
      for (int n = 0; n < kAhead; ++n) {
        if (c0 + 32 * n >= d) break;
#pragma unroll
        for (int g = 0; g < kHeads; ++g) {
          if (g0 + g >= group) break;
          const auto x = load<8>(query + (g0 + g) * d + c0 + 32 * n);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const auto key = Reader::values(k[n][i]);
#pragma unroll
            for (int e = 0; e < 8; ++e) s[i][g] = __fmaf_rn(x.v[e], key.v[e], s[i][g]);
          }
        }
      }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int g = 0; g < kHeads; ++g) {
        float sum = s[i][g];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (part == i) scores[g * 32 + lane / 4 + 8 * i] = sum;
      }
    __syncwarp();
#pragma unroll
    for (int g = 0; g < kHeads; ++g) out[g] = scores[g * 32 + lane];
  }

  /// Calls use(row, probability) for all rows, in order within a warp; row >= rows for lanes that have none.
  template <class Use>
  __device__ void each_row(const Use& use) const {
    for (int first = begin(); first < end(); first += 32) {
      const int row = first + threadIdx.x % 32;
      float p = 0, s[kHeads];
      for (int g0 = 0; g0 < group; g0 += kHeads) {
        score(first, g0, s);
#pragma unroll
        for (int g = 0; g < kHeads; ++g)
          if (g0 + g < group) p = __fmaf_rn(expf(s[g] - m[g0 + g]), factor[g0 + g], p);
      }
      use(row, p);
    }
  }

  /// Finds m and the factors.
  __device__ void find_totals() {
    __shared__ float tops[kWarps][kHeads], sums[kWarps][kHeads];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int g0 = 0; g0 < group; g0 += kHeads) {
      float top[kHeads], sum[kHeads], s[kHeads];
      for (int g = 0; g < kHeads; ++g) top[g] = -INFINITY, sum[g] = 0;
      for (int first = begin(); first < end(); first += 32) {
        score(first, g0, s);
        if (first + lane >= rows) continue;
#pragma unroll
        for (int g = 0; g < kHeads; ++g) {
          const float to = fmaxf(top[g], s[g]);
          sum[g] = sum[g] * decay(top[g], to) + expf(s[g] - to);
          top[g] = to;
        }
      }
#pragma unroll
      for (int g = 0; g < kHeads; ++g)
        for (int offset = 16; offset > 0; offset /= 2) {
          const float other = __shfl_xor_sync(~0u, top[g], offset), more = __shfl_xor_sync(~0u, sum[g], offset);
          const float to = fmaxf(top[g], other);
          sum[g] = sum[g] * decay(top[g], to) + more * decay(other, to);
          top[g] = to;
        }
      if (lane < kHeads) {
#pragma unroll
        for (int g = 0; g < kHeads; ++g)
          if (lane == g) tops[warp][g] = top[g], sums[warp][g] = sum[g];
      }
      __syncthreads();
      if (threadIdx.x < kHeads && g0 + threadIdx.x < group) {
        const int g = threadIdx.x;
        float to = -INFINITY;
        double total = 0;
        for (int w = 0; w < kWarps; ++w) to = fmaxf(to, tops[w][g]);
        for (int w = 0; w < kWarps; ++w) total += sums[w][g] * decay(tops[w][g], to);
        m[g0 + g] = to;
        factor[g0 + g] = static_cast<float>(1 / (total * group));
      }
      __syncthreads();
    }
  }

 private:
  /// A warp's rows are neighbours.
  __device__ int piece() const { return static_cast<int>(ceil_div(ceil_div(rows, kWarps), 32) * 32); }
  __device__ int begin() const { return min(rows, static_cast<int>(threadIdx.x / 32) * piece()); }
  __device__ int end() const { return min(rows, begin() + piece()); }
};

/// The lowest bin of those that the highest `wanted` of the counted keys are in; takes what lies above from `wanted`.
__device__ int pick_bin(const unsigned* counts, int& wanted) {
  constexpr int kEach = kBins / 32;
  __shared__ int bin, left;
  if (threadIdx.x < 32) {
    const int top = kBins - static_cast<int>(threadIdx.x) * kEach;  // lanes go down from the highest bins
    int sum = 0, upto;
    for (int i = 1; i <= kEach; ++i) sum += static_cast<int>(counts[top - i]);
    upto = sum;
    for (int offset = 1; offset < 32; offset *= 2) {
      const int above = __shfl_up_sync(~0u, upto, offset);
      if (static_cast<int>(threadIdx.x) >= offset) upto += above;
    }
    if (upto - sum < wanted && wanted <= upto) {
      int rest = wanted - (upto - sum), b = top - 1;
      for (; rest > static_cast<int>(counts[b]); --b) rest -= static_cast<int>(counts[b]);
      bin = b, left = rest;
    }
  }
  __syncthreads();
  wanted = left;
  return bin;
}

/// The key of the wanted-th highest probability (0: every row is wanted); `wanted` becomes how many at it are.
template <class A>
__device__ unsigned threshold_of(const A& attention, int& wanted) {
  __shared__ unsigned counts[kBins];
  unsigned threshold = 0;
  for (int digit = 0; digit < kDigits; ++digit) {
    for (int b = threadIdx.x; b < kBins; b += kThreads) counts[b] = 0;
    __syncthreads();
    const int shift = kShifts[digit], bits = kBits[digit];
    attention.each_row([&](int row, float p) {
      const unsigned key = ordered(p);
      const bool counted = row < attention.rows && (digit == 0 || key >> (shift + bits) == threshold);
      const int bin = counted ? static_cast<int>(key >> shift & ((1u << bits) - 1)) : -1;
      const unsigned same = __match_any_sync(~0u, bin);  // neighbours often have the same digit
      if (counted && __ffs(same) - 1 == static_cast<int>(threadIdx.x % 32))
        atomicAdd(&counts[bin], static_cast<unsigned>(__popc(same)));
    });
    __syncthreads();
    threshold = threshold << bits | static_cast<unsigned>(pick_bin(counts, wanted));
    __syncthreads();
  }
  return threshold;
}

/// The listed rows among the first `wanted` of those at the threshold, in row order.
template <class A>
__device__ double listed_at(const A& attention, const std::int32_t* list, int count, unsigned threshold, int wanted) {
  __shared__ int at_threshold[kWarps];
  const int warp = threadIdx.x / 32;
  int found = 0;
  attention.each_row(
      [&](int row, float p) { found += __popc(__ballot_sync(~0u, row < attention.rows && ordered(p) == threshold)); });
  if (threadIdx.x % 32 == 0) at_threshold[warp] = found;
  __syncthreads();
  int before = 0;
  for (int w = 0; w < warp; ++w) before += at_threshold[w];
  double listed = 0;
  attention.each_row([&](int row, float p) {
    const bool here = row < attention.rows && ordered(p) == threshold;
    const unsigned all = __ballot_sync(~0u, here);
    const int rank = before + __popc(all & ((1u << threadIdx.x % 32) - 1));
    if (here && rank < wanted && has(list, count, row)) listed += 1;
    before += __popc(all);
  });
  return block_sum(listed);
}

template <RowType type, class T>
__global__ void __launch_bounds__(kThreads) judge_lists(const __grid_constant__ JudgeArgs a) {
  extern __shared__ float4 shared[];
  __shared__ float scores[kWarps][kHeads * 32];
  const std::int64_t h = blockIdx.x, t = blockIdx.y, group = a.q_heads / a.kv_heads;
  const int d = static_cast<int>(a.head_dim), count = a.rows.count[t * a.kv_heads + h];
  const StepSpan span = a.batch.spans[t];
  const std::int32_t* list = a.rows.rows + (t * a.kv_heads + h) * a.rows.stride;
  SelectionQuality* out = a.out + t * a.out_stride + h;

  float* q = reinterpret_cast<float*>(shared);
  const int forms = a.forms.chunk > 0 ? kForms : 1;
  for (int form = 0; form < forms; ++form) {
    const T* from = query_of<T>(a.q, a.q_stride, a.forms, a.q_heads * d, t, form) + h * group * d;
    for (int i = threadIdx.x; i < group * d; i += kThreads) q[form * group * d + i] = widen(from[i]) * a.scale;
  }
  float* totals = q + forms * group * d;
  __syncthreads();
  Attention<type, T> attention{a.kv.data + span.slot * a.kv.session_stride + h * a.kv.head_stride,
                               row_bytes(type, d, a.act),
                               q,
                               form_borders(a.forms, span.rows - 1),
                               scores[threadIdx.x / 32],
                               totals,
                               totals + group,
                               span.rows,
                               d,
                               static_cast<int>(group)};
  attention.find_totals();

  int wanted = count;
  const unsigned threshold = count > 0 && count < span.rows ? threshold_of(attention, wanted) : 0;
  double mass = 0, above = 0, both = 0, at = 0, both_at = 0;
  attention.each_row([&](int row, float p) {
    if (row >= attention.rows) return;
    const unsigned key = ordered(p);
    const bool listed = has(list, count, row);
    if (listed) mass += p, both += key > threshold, both_at += key == threshold;
    if (key > threshold) above += p;
    at += key == threshold;
  });
  mass = block_sum(mass), above = block_sum(above), both = block_sum(both), at = block_sum(at);
  both_at = block_sum(both_at);
  if (at > wanted && count > 0) both_at = listed_at(attention, list, count, threshold, wanted);
  if (threadIdx.x != 0) return;
  const float value = threshold >> 31 ? __uint_as_float(threshold ^ 0x80000000u) : 0.0f;
  if (count == 0) *out = {0, 0, 1};
  else
    *out = {static_cast<float>(mass), static_cast<float>(above + value * fmin(at, static_cast<double>(wanted))),
            static_cast<float>((both + both_at) / count)};
}

}  // namespace

void judge(const JudgeArgs& a, cudaStream_t stream) {
  if (a.batch.count == 0) return;
  const std::int64_t group = a.q_heads / a.kv_heads, forms = a.forms.chunk > 0 ? kForms : 1;
  with_type(a.act, [&]<class T>(T) {
    with_row_type(a.kv.type, [&](auto type) {
      Launch{.grid = {static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(a.batch.count)},
             .block = kThreads,
             .shared_bytes = static_cast<std::size_t>(group * (forms * a.head_dim + 2)) * sizeof(float),
             .stream = stream}(judge_lists<type(), T>, a);
    });
  });
}

}  // namespace longhaul::cuda
