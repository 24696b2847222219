// mean_values: in double, row by row, so that it does not depend on how the work was cut.
#include <vector>

#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {

void mean_values(const MeanValuesArgs& a) {
  const std::int64_t d = a.head_dim;
  parallel_for(a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* space = scratch.get<float>(d);
    for (std::int64_t h = begin; h < end; ++h) {
      std::vector<double> sums(d);
      const std::byte* values = at(a.kv.data + h * a.kv.head_stride, a.act, d);
      for (std::int64_t r = 0; r < a.kv.rows; ++r) {
        const float* v = read_row(at(values, a.act, r * 2 * d), a.act, d, space);
        for (std::int64_t i = 0; i < d; ++i) sums[i] += v[i];
      }
      for (std::int64_t i = 0; i < d; ++i)
        a.out[h * d + i] = static_cast<float>(sums[i] / static_cast<double>(a.kv.rows));
    }
  });
}

}  // namespace longhaul::cpu
