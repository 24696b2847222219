// What each layer does, worked out once from the policy, so that the walks have no cases.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "offload/policy.h"
#include "offload/shape.h"

namespace longhaul {

struct LayerPlan {
  bool selects;    // attends listed rows, not all
  bool labelled;   // selects by labels
  bool predicted;  // its rows are prefetched for a query predicted in the layer before
  bool corrected;  // its rows are selected by the true query
  bool windowed;   // attends its last rows only, which are all it keeps
};

inline std::vector<LayerPlan> plan_layers(const KvPolicy& policy, const KvShape& shape) {
  std::vector<LayerPlan> plan;
  for (std::int64_t l = 0; l < shape.layers; ++l) {
    auto listed = [l](const std::vector<std::int64_t>& list) { return std::ranges::find(list, l) != list.end(); };
    const bool selects = policy.selects() && !listed(policy.dense_layers) && !shape.is_windowed(l);
    const bool labelled = selects && policy.select == Select::labels;
    // Layer 0 has no layer before it.
    const bool predicted = labelled && l > 0 && policy.look_ahead != LookAhead::none && !listed(policy.eager_layers);
    const bool corrected = selects && (!predicted || policy.repair);
    plan.push_back({selects, labelled, predicted, corrected, shape.is_windowed(l)});
  }
  return plan;
}

}  // namespace longhaul
