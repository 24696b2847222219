// Scores by labels of any width, dimensions and group, in float32: the wide labels that accuracy is compared with, and
// shapes that score_codes does not have.
#include <cfloat>

#include "kernels/cuda/forms.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/select.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kRows = 1024;  // of a block
constexpr int kMostQueries = 4;                                      // at once

__device__ inline float code_at(const std::byte* block, int dim, int row, int bits) {
  const std::byte* at = block + dim * kAttendBlock * bits / 8;
  if (bits == 16) return widen(reinterpret_cast<const bf16*>(at)[row]);
  if (bits == 8) return static_cast<float>(static_cast<int>(at[row]));
  const int both = static_cast<int>(at[row % 32]);
  return static_cast<float>(row < 32 ? both & 15 : both >> 4);
}

__global__ void __launch_bounds__(kThreads) score_rows(const __grid_constant__ Selection s) {
  __shared__ float weights[kMostQueries][256], offsets[kMostQueries];
  const SelectArgs& a = s.a;
  const std::int64_t head = blockIdx.y, place = head / a.kv_heads, h = head % a.kv_heads;
  const StepSpan span = a.batch.spans[place];
  const Competition c = competition(a, place);
  const int begin = static_cast<int>(blockIdx.x) * kRows, end = min(c.tail, begin + kRows);
  if (!c.open() || begin >= end) return;
  const int d = static_cast<int>(a.head_dim), dims = static_cast<int>(a.labels.dims),
            bits = static_cast<int>(a.labels.bits);
  const int group = static_cast<int>(s.group), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* basis = a.labels.basis + span.slot * a.labels.basis_stride + h * label_basis_floats(dims, d);
  const std::byte* codes = a.labels.codes + span.slot * a.labels.session_stride + h * a.labels.head_stride;
  const std::int64_t width = a.q_heads * d;
  const float* beside =
      tail_fit(a.labels.basis + span.slot * a.labels.basis_stride, a.kv_heads, d, dims).beside + h * d;
  const FormBorders borders = form_borders(a.forms, span.rows - 1);
  /// Element x of the place's query.
  auto query = [&](int form, std::int64_t x) {
    return a.act == DType::bf16 ? widen(query_of<bf16>(a.q, a.q_stride, a.forms, width, place, form)[x])
                                : query_of<float>(a.q, a.q_stride, a.forms, width, place, form)[x];
  };
  /// Scores of rows [begin, end), which are asked with one form, by a few heads of the group.
  auto score = [&](int form, int first, int queries, int begin, int end) {
    __syncthreads();
    for (int i = warp; i < queries * dims; i += kWarps) {
      const int g = i / dims, j = i % dims;
      const std::int64_t at = (h * group + first + g) * d;
      float sum = 0;
      for (int x = lane; x < d; x += 32) sum += basis[(dims + j) * d + x] * (query(form, at + x) * a.scale);
      for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(~0u, sum, o);
      if (lane == 0) weights[g][j] = bits == 16 ? sum : sum * basis[2 * dims * d + dims + j];
    }
    // What labels leave out is another with each form (form_offset).
    for (int g = warp; g < queries; g += kWarps) {
      const std::int64_t at = (h * group + first + g) * d;
      float sum = 0;
      for (int x = lane; form > 0 && x < d; x += 32)
        sum += (query(form, at + x) - query(0, at + x)) * a.scale * beside[x];
      for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(~0u, sum, o);
      if (lane == 0) offsets[g] = sum;
    }
    __syncthreads();
    for (int row = begin + static_cast<int>(threadIdx.x); row < end; row += kThreads) {
      const std::byte* block = codes + row / kAttendBlock * label_block_bytes(dims, bits);
      float sum[kMostQueries] = {};
      for (int j = 0; j < dims; ++j) {
        const float code = code_at(block, j, row % static_cast<int>(kAttendBlock), bits);
#pragma unroll
        for (int g = 0; g < kMostQueries; ++g) sum[g] += code * weights[g][j];
      }
#pragma unroll
      for (int g = 0; g < kMostQueries; ++g)
        if (g < queries) {  // in base 2 where there is a softmax
          constexpr float kLog2e = 1.4426950408889634f;
          const float x = form > 0 ? sum[g] + offsets[g] : sum[g];
          s.work[(head * group + first + g) * s.stride + row] = s.softmax ? x * kLog2e : x;
        }
    }
  };
  for (int first = 0; first < group; first += kMostQueries)
    for (int form = borders.form_of(end - 1); form <= borders.form_of(begin); ++form) {
      const int from = form == 0 ? borders.own : form == 1 ? borders.before : 0;
      const int to = form == 0 ? end : form == 1 ? borders.own : borders.before;
      score(form, first, min(kMostQueries, group - first), max(begin, from), min(end, to));
    }
}

/// log2 of the softmax's sum for each query head, and of the group's size where a mean is wanted.
__global__ void __launch_bounds__(1024) sum_scores(const __grid_constant__ Selection s) {
  __shared__ float tops[32], sums[32];
  const std::int64_t head = blockIdx.x;  // of queries
  const Competition c = competition(s.a, head / s.a.q_heads);
  if (!c.open()) return;
  const float* scores = s.work + head * s.stride;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float m = -FLT_MAX, l = 0;
  auto add = [&](float their_m, float their_l) {
    const float to = fmaxf(m, their_m);
    l = l * exp2_fast(m - to) + their_l * exp2_fast(their_m - to);
    m = to;
  };
  for (int r = threadIdx.x; r < c.tail; r += 1024) add(scores[r], 1);
  for (int o = 1; o < 32; o *= 2) add(__shfl_xor_sync(~0u, m, o), __shfl_xor_sync(~0u, l, o));
  if (lane == 0) tops[warp] = m, sums[warp] = l;
  __syncthreads();
  if (warp > 0) return;
  m = tops[lane], l = sums[lane];
  for (int o = 1; o < 32; o *= 2) add(__shfl_xor_sync(~0u, m, o), __shfl_xor_sync(~0u, l, o));
  if (lane == 0)
    s.log_sums[head] = m + log2f(l) + (s.a.combine == Combine::mean ? log2f(static_cast<float>(s.group)) : 0.0f);
}

}  // namespace

void score_plain(const Selection& s, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(s.a.batch.capacity, kRows)), static_cast<unsigned>(s.heads()));
  Launch{.grid = grid, .block = kThreads, .stream = stream}(score_rows, s);
  if (!s.softmax) return;
  Launch{.grid = static_cast<unsigned>(s.a.batch.count * s.a.q_heads), .block = 1024, .stream = stream}(sum_scores, s);
}

}  // namespace longhaul::cuda
