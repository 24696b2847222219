// Second moments of many vectors: sums in float32 over slabs, added up in double precision in the slabs' order. What a
// centre leaves of a vector is rounded to the vectors' own type.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/base/types.h"

namespace longhaul::cpu {

/// Vectors of `dim` elements, `stride` elements apart.
struct Vectors {
  const void* data;
  DType type;
  std::int64_t stride, count, dim;
};

/// sums [dim, dim] += sum of (x - centre)(x - centre)^T; centre [dim] may be null: 0. Parallel inside.
void add_gram(const Vectors& x, const float* centre, double* sums);

}  // namespace longhaul::cpu
