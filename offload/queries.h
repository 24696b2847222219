// What a walk asks its rows with.
#pragma once
#include "kernels/ops.h"

namespace longhaul {

/// Queries after rope, a token each.
struct Queries {
  const void* q;          // [tokens, q_heads, head_dim] act
  std::int64_t stride;    // elements from one token to the next
  QueryForms forms = {};  // chunk 0: rows are asked with q alone
};

}  // namespace longhaul
