#include "kernels/cpu/gram.h"

#include <algorithm>

#include "kernels/base/bytes.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {

void add_gram(const Vectors& x, const float* centre, double* sums) {
  constexpr std::int64_t kSlab = 512;
  const std::int64_t d = x.dim, slabs = ceil_div(x.count, kSlab);
  std::vector<float> products(slabs * d * d);
  parallel_for(slabs, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* rows = scratch.get<float>(2 * kSlab * d);
    float* columns = rows + kSlab * d;
    for (std::int64_t slab = begin; slab < end; ++slab) {
      const std::int64_t first = slab * kSlab, n = std::min(kSlab, x.count - first);
      for (std::int64_t r = 0; r < n; ++r) {
        float* to = rows + r * d;
        const float* from = read_row(at(x.data, x.type, (first + r) * x.stride), x.type, d, to);
        for (std::int64_t i = 0; i < d; ++i) to[i] = from[i] - (centre ? centre[i] : 0.0f);
      }
      for (std::int64_t r0 = 0; r0 < n; r0 += 16)
        for (std::int64_t i = 0; i < d; ++i)
          for (std::int64_t r = r0; r < std::min(r0 + 16, n); ++r) columns[i * kSlab + r] = rows[r * d + i];
      gemm({.a = columns,
            .a_type = DType::f32,
            .lda = kSlab,
            .b = rows,
            .b_type = DType::f32,
            .ldb = d,
            .b_transposed = false,
            .c = &products[slab * d * d],
            .ldc = d,
            .accumulate = false,
            .m = d,
            .n = d,
            .k = n});
    }
  });
  for (std::int64_t slab = 0; slab < slabs; ++slab)
    for (std::int64_t i = 0; i < d * d; ++i) sums[i] += products[slab * d * d + i];
}

}  // namespace longhaul::cpu
