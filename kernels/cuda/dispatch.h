// From run-time types and sizes to template arguments, once for all operators.
#pragma once
#include <cstdint>
#include <type_traits>

#include "kernels/row_format.h"

namespace longhaul::cuda {

/// f(T{}) with T the element type.
template <class F>
void with_type(DType type, const F& f) {
  if (type == DType::bf16) f(bf16{});
  else f(float{});
}

/// f(integral_constant<RowType>).
template <class F>
void with_row_type(RowType type, const F& f) {
  if (type == RowType::int8) f(std::integral_constant<RowType, RowType::int8>{});
  else if (type == RowType::fp8) f(std::integral_constant<RowType, RowType::fp8>{});
  else if (type == RowType::int4) f(std::integral_constant<RowType, RowType::int4>{});
  else f(std::integral_constant<RowType, RowType::act>{});
}

/// f(integral_constant<N>), N = 8 where rows of `width` elements keep packs of 8 aligned, else 1.
template <class F>
void with_pack(std::int64_t width, const F& f) {
  if (width % 8 == 0) f(std::integral_constant<int, 8>{});
  else f(std::integral_constant<int, 1>{});
}

}  // namespace longhaul::cuda
