// Matrix products over oneDNN, on the calling thread alone: a caller cuts the work into tasks and calls this in each.
#pragma once
#include <cstdint>

#include "kernels/base/types.h"

namespace longhaul::cpu {

/// c = a * b, or c += a * b. Row-major; strides in elements.
struct GemmArgs {
  const void* a;  // [m, k]
  DType a_type;
  std::int64_t lda;
  const void* b;  // [k, n], or [n, k] when b_transposed
  DType b_type;
  std::int64_t ldb;
  bool b_transposed;
  float* c;  // [m, n]
  std::int64_t ldc;
  bool accumulate;
  std::int64_t m, n, k;
};

/// Two bf16 operands are multiplied as such where the processor can; all else is widened piece by piece for sgemm.
void gemm(const GemmArgs&);

/// For tests: behave as a processor without bf16 products.
void set_bf16_gemm(bool allowed);

}  // namespace longhaul::cpu
