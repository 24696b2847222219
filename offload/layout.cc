#include "offload/layout.h"

#include <cmath>

#include "kernels/base/bytes.h"

namespace longhaul {

KvLayout make_layout(const KvPolicy& policy, double resident, std::int64_t sessions, std::int64_t capacity) {
  KvLayout layout{.sessions = sessions,
                  .capacity = round_up(capacity, kAttendBlock),
                  .prefix_rows = 0,
                  .ring_rows = 0,
                  .tile_rows = 0};
  auto rows = static_cast<std::int64_t>(std::floor(resident * static_cast<double>(layout.capacity)));
  layout.prefix_rows = resident >= 1 ? layout.capacity : round_down(rows, kAttendBlock);
  if (layout.all_resident()) return layout;
  layout.ring_rows = std::min(policy.recent_rows, layout.host_rows());
  layout.tile_rows = std::min(policy.tile_rows, layout.host_rows());
  return layout;
}

}  // namespace longhaul
