// The shape of a model's KV cache.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/row_format.h"

namespace longhaul {

struct KvShape {
  std::int64_t layers, q_heads, kv_heads, head_dim;
  DType act;                        // of queries, outputs and the rows of a prefill's layer
  RowType row_type = RowType::act;  // of KV rows everywhere else
  std::int64_t window = 0;          // rows that a token sees in a windowed layer, its own included
  std::vector<bool> windowed = {};  // [layers]; empty: every layer sees all rows
  /// Not 0: dual-chunk attention, as in RopeArgs. Where no session outgrows a chunk there is none.
  std::int64_t chunk = 0, reach = 0;
  std::vector<bool> still = {};  // [layers] RoPE does not turn its queries and keys; empty: it does in all

  bool is_windowed(std::int64_t layer) const { return !windowed.empty() && windowed[static_cast<std::size_t>(layer)]; }
  bool is_still(std::int64_t layer) const { return !still.empty() && still[static_cast<std::size_t>(layer)]; }
  std::int64_t windowed_layers() const { return std::ranges::count(windowed, true); }
  std::int64_t full_layers() const { return layers - windowed_layers(); }
  /// A layer's number among the windowed ones, or among the others.
  std::int64_t index(std::int64_t layer) const {
    if (windowed.empty()) return layer;
    return std::count(windowed.begin(), windowed.begin() + layer, is_windowed(layer));
  }
  std::int64_t row_bytes() const { return longhaul::row_bytes(row_type, head_dim, act); }  // of one token, one KV head
  /// Of a session of n rows, in all layers.
  std::int64_t session_bytes(std::int64_t n) const {
    return (full_layers() * n + windowed_layers() * std::min(n, window)) * kv_heads * row_bytes();
  }
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
