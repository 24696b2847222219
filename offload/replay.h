// Rows that the steps of another run selected, to be attended in place of those that a synthetic model's queries would
// select: random queries have no reuse from step to step.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace longhaul {

struct Replay {
  std::int64_t steps = 0, layers = 0, heads = 0, stride = 0;
  std::vector<std::int32_t> rows;    // [steps, layers, heads, stride], ascending; empty: no reuse at all
  std::vector<std::int32_t> counts;  // [steps, layers, heads]
  float recall = 1;                  // share of a step's rows that look-ahead foretells

  bool recorded() const { return !rows.empty(); }
  /// The recorded layer that stands for `layer`: the first two for themselves, the others in turn. They differ most.
  std::int64_t layer_for(std::int64_t layer) const {
    if (layer < layers) return layer;
    return layers <= 2 ? layer % layers : 2 + (layer - 2) % (layers - 2);
  }
};

}  // namespace longhaul
