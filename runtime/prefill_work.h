// How much of a prefill a chunk is, for predicting its time.
#pragma once
#include "runtime/model_config.h"

namespace longhaul {

/// Multiply-adds of one token's products in one layer.
inline double linear_work(const ModelConfig& c) {
  return static_cast<double>(c.hidden) * ((2 * c.q_heads + 2 * c.kv_heads) * c.head_dim + 3 * c.intermediate);
}

/// Arithmetic of a chunk of a prompt, in multiply-adds of one layer.
inline double chunk_work(const ModelConfig& c, std::int64_t pos, std::int64_t tokens) {
  const double attention = 2.0 * c.q_heads * c.head_dim * (static_cast<double>(pos) + tokens / 2.0);
  return tokens * (linear_work(c) + attention);
}

/// Of a whole prompt, in the same unit: in its square where it is long.
inline double prompt_work(const ModelConfig& c, std::int64_t tokens) { return chunk_work(c, 0, tokens); }

}  // namespace longhaul
