// Rows of fewer bits on the CPU: making one, and the loops that attend rows of a type.
#pragma once
#include "kernels/cpu/simd/simd.h"
#include "kernels/row_format.h"

namespace longhaul::cpu {

/// A row of 2 * head_dim values, of which `type` keeps codes.
void encode_row(RowType type, const float* x, std::int64_t head_dim, std::byte* row);

inline const RowLoops& row_loops(RowType type, DType act) {
  const Simd& s = simd();
  switch (type) {
    case RowType::int8:
      return *s.rows_int8;
    case RowType::fp8:
      return *s.rows_fp8;
    case RowType::int4:
      return *s.rows_int4;
    case RowType::act:
      break;
  }
  return act == DType::bf16 ? *s.rows_bf16 : *s.rows_f32;
}

}  // namespace longhaul::cpu
