// Where each row of a session lives: resident prefix [0, prefix), host store [prefix, window_begin(n)), recent window
// [window_begin(n), n). Disjoint, and together all n rows (design law 4). The resident set and the staging places hold
// copies of host rows. All of this is of the layers that see every row: a windowed layer's last rows are on the device,
// and it keeps no others.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/base/bytes.h"
#include "kernels/ops.h"
#include "offload/policy.h"
#include "offload/shape.h"

namespace longhaul {

struct KvLayout {
  std::int64_t sessions;         // slots
  std::int64_t capacity;         // rows of one session
  std::int64_t prefix_rows;      // resident rows; capacity when everything is
  std::int64_t ring_rows;        // of the recent window; 0 when everything is resident
  std::int64_t tile_rows;        // of a staging slot; 0 when no row is streamed
  std::int64_t list_rows = 0;    // most rows that a token attends by selection; 0 when nothing is selected
  std::int64_t staged_rows = 0;  // places for listed rows that come over the link; 0 when everything is resident
  std::int64_t cache_rows = 0;   // slots of the resident set
  std::int64_t window_rows = 0;  // of a windowed layer's ring, which is all that it keeps; 0 where no layer is windowed
  std::int64_t store_rows = 0;   // of the host store, all sessions together
  bool own_lengths = false;      // a session takes of those what it may need itself; else all take as many

  bool all_resident() const { return prefix_rows >= capacity; }
  std::int64_t host_rows() const { return capacity - prefix_rows; }
  /// That a session takes of the host store if it may come to `rows` rows.
  std::int64_t host_rows_of(std::int64_t rows) const {
    if (!own_lengths) return host_rows();
    return std::max<std::int64_t>(0, std::min(capacity, round_up(rows, kAttendBlock)) - prefix_rows);
  }

  /// First row of the recent window of a session with n rows: a multiple of kAttendBlock, or prefix_rows.
  std::int64_t window_begin(std::int64_t n) const {
    std::int64_t oldest = (std::max<std::int64_t>(n - ring_rows, 0) + kAttendBlock - 1) / kAttendBlock * kAttendBlock;
    return all_resident() ? n : std::max(prefix_rows, oldest);
  }
};

/// The layout of `sessions` slots of `capacity` rows with `resident` (a share) of them on the device and a resident set
/// of `cache` times the budget; a host store in which all have as many.
KvLayout make_layout(const KvPolicy& policy, double resident, double cache, std::int64_t sessions,
                     std::int64_t capacity);

}  // namespace longhaul
