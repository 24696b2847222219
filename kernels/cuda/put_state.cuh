// What attend leaves of a query row beside its output. Device code only.
#pragma once
#include "kernels/ops.h"

namespace longhaul::cuda {

/// The maximum of the scaled scores and the sum beside it; where state.l is null, the logarithm of their whole sum.
__device__ inline void put_state(const AttnState& state, std::int64_t i, float m, float l) {
  if (state.l == nullptr) state.m[i] = m + logf(l);
  else state.m[i] = m, state.l[i] = l;
}

}  // namespace longhaul::cuda
