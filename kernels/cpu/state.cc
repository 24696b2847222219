// finish: a partial attention, divided.
#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {

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
