// The parts of a decode attention: a block of 4 warps attends its part of a segment's rows for the query heads of a
// group, each warp some of the rows, and adds up what the warps have.
#pragma once
#include <cmath>

#include "kernels/cuda/deal.cuh"
#include "kernels/cuda/forms.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/row_sources.cuh"

namespace longhaul::cuda {

inline constexpr int kAttendThreads = 128, kAttendWarps = kAttendThreads / 32;

template <class Source>
struct AttendPartsArgs {
  Source source;
  RowCounts counts;
  const void* q;          // [tokens, q_heads, head_dim] act
  std::int64_t q_stride;  // elements from one token to the next
  Parts parts;            // out
  int group, head_dim;
  float scale;
  float* scores;  // [tokens, q_heads, score_stride] of row i of the segment; null: not kept
  std::int64_t score_stride;
  QueryForms forms;       // where kHasForms<Source>
  const StepSpan* spans;  // of the tokens, likewise

  /// Of the group's query heads; `token` and `head`: of the KV heads.
  template <class T>
  __device__ const T* query(int token, int head, int form) const {
    const std::int64_t width = std::int64_t{counts.kv_heads} * group * head_dim;
    return query_of<T>(q, q_stride, forms, width, token, form) + std::int64_t{head} * group * head_dim;
  }
};

/// Calls body(form, from, to) for the runs of a part's rows [begin, end) that a form asks, in order: the older first.
/// So where a chunk ends inside of what warps take at once, they take it twice, and each time a part of it.
template <class Source, class Rows, class Body>
__device__ void for_each_form(const AttendPartsArgs<Source>& a, int token, const Rows& rows, int begin, int end,
                              const Body& body) {
  if constexpr (!kHasForms<Source>) {
    body(0, begin, end);
  } else {
    const FormBorders borders = form_borders(a.forms, a.spans[token].rows - 1);
    const int own = rows.find(borders.own, begin, end), before = rows.find(borders.before, begin, own);
#pragma unroll 1
    for (int form = kForms - 1, from = begin; form >= 0; --form) {
      const int to = form == 0 ? end : form == 1 ? own : before;
      if (from < to) body(form, from, to);
      from = to;
    }
  }
}

/// The query heads that a block serves: a group of more than `most` takes several blocks, by blockIdx.y.
struct Heads {
  int first, count;  // of the group
};
__device__ inline Heads heads_of_block(int group, int most) {
  const int first = static_cast<int>(blockIdx.y) * most;
  return {first, min(most, group - first)};
}

/// What each warp of a block has of H heads and up to D columns, in shared memory; m = -inf, l = 0, o = 0 for nothing.
template <int H, int D>
struct WarpStates {
  static constexpr int kPad = 4;  // neighbouring heads in different banks
  alignas(16) float o[kAttendWarps][H][D + kPad];
  float m[kAttendWarps][H], l[kAttendWarps][H];

  /// By the whole block, after each warp has written its own: columns from `first` of d.
  __device__ void write_sum(const Parts& parts, std::int64_t first_state, int heads, int d, int first = 0) {
    __syncthreads();
    const int packs = min(D, d - first) / 4;
    for (int item = static_cast<int>(threadIdx.x); item < heads * packs; item += kAttendThreads) {
      const int h = item / packs, column = item % packs * 4;
      float most = m[0][h], sum = 0;
#pragma unroll
      for (int w = 1; w < kAttendWarps; ++w) most = fmaxf(most, m[w][h]);
      Pack<float, 4> x = {};
#pragma unroll
      for (int w = 0; w < kAttendWarps; ++w) {
        const float take = decay(m[w][h], most);
        const auto y = load<4>(&o[w][h][column]);
        sum += l[w][h] * take;
#pragma unroll
        for (int j = 0; j < 4; ++j) x.v[j] += y.v[j] * take;
      }
      store<4>(parts.o + (first_state + h) * d + first + column, x);
      if (first + column == 0) parts.ml[first_state + h] = {most, sum};
    }
    __syncthreads();  // all has been read: the next part may come
  }
};

}  // namespace longhaul::cuda
