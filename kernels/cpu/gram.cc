#include "kernels/cpu/gram.h"

#include <algorithm>

#include "kernels/base/bytes.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kSlab = 512;

/// x [n, d], `stride` apart, to columns [d, kSlab].
template <class T>
void transpose(const void* x, std::int64_t stride, std::int64_t n, std::int64_t d, void* columns) {
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(columns);
  for (std::int64_t r0 = 0; r0 < n; r0 += 16)
    for (std::int64_t i = 0; i < d; ++i)
      for (std::int64_t r = r0; r < std::min(r0 + 16, n); ++r) to[i * kSlab + r] = from[r * stride + i];
}

}  // namespace

void add_gram(const Vectors& x, const float* centre, double* sums) {
  const std::int64_t d = x.dim, slabs = ceil_div(x.count, kSlab);
  std::vector<float> products(slabs * d * d);
  parallel_for(slabs, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch, wide;
    auto* columns = scratch.get<std::byte>(2 * kSlab * d * size_of(x.type));
    for (std::int64_t slab = begin; slab < end; ++slab) {
      const std::int64_t first = slab * kSlab, n = std::min(kSlab, x.count - first);
      const std::byte* rows = at(x.data, x.type, first * x.stride);
      std::int64_t stride = x.stride;
      if (centre != nullptr) {
        std::byte* centred = columns + kSlab * d * size_of(x.type);
        float* space = wide.get<float>(d);
        for (std::int64_t r = 0; r < n; ++r) {
          const float* from = read_row(at(rows, x.type, r * stride), x.type, d, space);
          for (std::int64_t i = 0; i < d; ++i) space[i] = from[i] - centre[i];
          write_row(space, at(centred, x.type, r * d), x.type, d);
        }
        rows = centred, stride = d;
      }
      if (x.type == DType::bf16) transpose<bf16>(rows, stride, n, d, columns);
      else transpose<float>(rows, stride, n, d, columns);
      gemm({.a = columns,
            .a_type = x.type,
            .lda = kSlab,
            .b = rows,
            .b_type = x.type,
            .ldb = stride,
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
