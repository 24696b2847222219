#include "offload/layout.h"

#include <cmath>

#include "kernels/base/bytes.h"

namespace longhaul {

KvLayout make_layout(const KvPolicy& policy, double resident, double cache, std::int64_t sessions,
                     std::int64_t capacity) {
  KvLayout layout{.sessions = sessions,
                  .capacity = round_up(capacity, kAttendBlock),
                  .prefix_rows = 0,
                  .ring_rows = 0,
                  .tile_rows = 0};
  auto rows = static_cast<std::int64_t>(std::floor(resident * static_cast<double>(layout.capacity)));
  layout.prefix_rows = resident >= 1 ? layout.capacity : round_down(rows, kAttendBlock);
  if (policy.selects()) {
    // Sinks are attended at every step: they never leave the device.
    layout.prefix_rows = std::min(layout.capacity, std::max(layout.prefix_rows, round_up(policy.sinks, kAttendBlock)));
    layout.list_rows = policy.budget(layout.capacity);
  }
  layout.store_rows = sessions * layout.host_rows();
  if (layout.all_resident()) return layout;
  layout.ring_rows = std::min(policy.recent_rows, layout.host_rows());
  if (!policy.selects() || !policy.dense_layers.empty())
    layout.tile_rows = std::min(policy.tile_rows.value_or(KvPolicy::kTileRows), layout.host_rows());
  if (!policy.selects()) return layout;
  // A layer's staging holds what was predicted for it and what the prediction missed.
  const bool predicts = policy.look_ahead != LookAhead::none;
  layout.staged_rows = layout.list_rows * (predicts && policy.repair ? 2 : 1);
  layout.cache_rows = std::min(layout.host_rows(),
                               static_cast<std::int64_t>(std::llround(cache * static_cast<double>(layout.list_rows))));
  return layout;
}

}  // namespace longhaul
