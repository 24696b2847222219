// Which form of a query asks which rows (QueryForms), and where a token's query of a form is. Device code only.
#pragma once
#include "kernels/ops.h"

namespace longhaul::cuda {

inline constexpr int kForms = 3;

/// Row numbers: from `own` on rows are asked with form 0, from `before` on with form 1, earlier ones with form 2.
struct FormBorders {
  int before, own;
  __device__ int form_of(int row) const { return (row < own) + (row < before); }
};
/// Of the query at row `position`. Without chunks form 0 asks all rows.
__device__ inline FormBorders form_borders(const QueryForms& f, int position) {
  if (f.chunk == 0) return {0, 0};
  const int chunk = static_cast<int>(f.chunk), own = position / chunk * chunk;
  return {own - chunk, own};
}

/// Of all query heads of a token: `width` = q_heads * head_dim elements.
template <class T>
__device__ const T* query_of(const void* q, std::int64_t q_stride, const QueryForms& f, std::int64_t width,
                             std::int64_t token, int form) {
  if (form == 0) return static_cast<const T*>(q) + token * q_stride;
  return static_cast<const T*>(f.older) + (form - 1) * f.form_stride + token * width;
}

}  // namespace longhaul::cuda
