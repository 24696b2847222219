// Partial attentions: merge adds two, finish divides.
#include <cmath>
#include <limits>

#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {

void merge(const MergeArgs& a) {
  parallel_for(a.tokens * a.heads, row_grain(a.head_dim), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      float &m = a.into.m[i], &l = a.into.l[i];
      const float other = a.from.m[i];
      if (other == -std::numeric_limits<float>::infinity()) continue;
      const float to = m > other ? m : other;
      const float ours = std::exp(m - to), theirs = std::exp(other - to);
      simd().blend(a.into.o + i * a.head_dim, ours, a.from.o + i * a.head_dim, theirs, a.head_dim);
      l = l * ours + a.from.l[i] * theirs;
      m = to;
    }
  });
}

void finish(const FinishArgs& a) {
  parallel_for(a.tokens * a.heads, row_grain(a.head_dim), [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* y = scratch.get<float>(a.head_dim);
    for (std::int64_t i = begin; i < end; ++i) {
      const float l = a.state.l[i];
      simd().scale(a.state.o + i * a.head_dim, l == 0 ? 0.0f : 1.0f / l, y, a.head_dim);
      write_row(y, at(a.out, a.act, i * a.head_dim), a.act, a.head_dim);
    }
  });
}

}  // namespace longhaul::cpu
