// The shape of a model's KV cache.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/row_format.h"

namespace longhaul {

struct KvShape {
  std::int64_t layers, q_heads, kv_heads, head_dim;
  DType act;                        // of queries, outputs and the rows of a prefill's layer
  RowType row_type = RowType::act;  // of KV rows everywhere else

  std::int64_t row_bytes() const { return longhaul::row_bytes(row_type, head_dim, act); }  // of one token, one KV head
  std::int64_t token_bytes() const { return layers * kv_heads * row_bytes(); }
  std::int64_t qkv_width() const { return (q_heads + 2 * kv_heads) * head_dim; }  // elements
  /// Of rows as activations are.
  KvShape unrounded() const {
    KvShape shape = *this;
    shape.row_type = RowType::act;
    return shape;
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
};

}  // namespace longhaul
