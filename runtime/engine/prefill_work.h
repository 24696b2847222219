// How much of a prefill a chunk is, for predicting its time.
#pragma once
#include <algorithm>

#include "runtime/model/model_config.h"

namespace longhaul {

/// Multiply-adds of one token's products in one layer.
inline double linear_work(const ModelConfig& c) {
  const std::int64_t networks = std::max<std::int64_t>(c.experts_per_token, 1);
  return static_cast<double>(c.hidden) *
         ((2 * c.q_heads + 2 * c.kv_heads) * c.head_dim + c.experts + networks * 3 * c.intermediate);
}

/// Rows that the tokens of a chunk see in a layer, all together, to half a row each.
inline double rows_seen(const ModelConfig& c, std::int64_t layer, std::int64_t pos, std::int64_t tokens) {
  auto before = [&](double n) {  // of the first n tokens
    const auto window = static_cast<double>(c.window);
    const bool cut = !c.windowed.empty() && c.windowed[static_cast<std::size_t>(layer)] && n > window;
    return cut ? window * (n - window / 2) : n * n / 2;
  };
  return before(static_cast<double>(pos + tokens)) - before(static_cast<double>(pos));
}

/// Arithmetic of a chunk of a prompt, in multiply-adds of one layer.
inline double chunk_work(const ModelConfig& c, std::int64_t layer, std::int64_t pos, std::int64_t tokens) {
  return static_cast<double>(tokens) * linear_work(c) +
         2.0 * static_cast<double>(c.q_heads * c.head_dim) * rows_seen(c, layer, pos, tokens);
}

/// Of a whole prompt, in all layers: in its square where it is long.
inline double prompt_work(const ModelConfig& c, std::int64_t tokens) {
  double work = 0;
  for (std::int64_t l = 0; l < c.layers; ++l) work += chunk_work(c, l, 0, tokens);
  return work;
}

}  // namespace longhaul
