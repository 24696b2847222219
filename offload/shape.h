// The shape of a model's KV cache.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/base/types.h"

namespace longhaul {

struct KvShape {
  std::int64_t layers, q_heads, kv_heads, head_dim;
  DType act;  // of queries, outputs and KV rows

  std::int64_t row_bytes() const { return 2 * head_dim * size_of(act); }  // K | V of one token, one KV head
  std::int64_t token_bytes() const { return layers * kv_heads * row_bytes(); }
  std::int64_t qkv_width() const { return (q_heads + 2 * kv_heads) * head_dim; }  // elements
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
};

}  // namespace longhaul
