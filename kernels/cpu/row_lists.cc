// locate, gather, retain, fill: where listed rows are, and bringing them.
#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/lists.h"
#include "kernels/cpu/ops.h"

namespace longhaul::cpu {
namespace {

const std::int32_t* list(const RowList& l, std::int64_t n) { return l.rows + n * l.stride; }

/// The n-th list of the batch; returns its tally.
std::array<std::int64_t, kTally> locate_list(const LocateArgs& a, std::int64_t n) {
  const StepSpan& span = a.batch.spans[n / a.kv_heads];
  const ResidentSet& set = a.resident;
  const std::int32_t* slots =
      set.slot_of ? set.slot_of + span.slot * set.slot_of_session + n % a.kv_heads * set.stride : nullptr;
  const std::int32_t *selected = list(a.selected, n), *staged = a.staged.rows ? list(a.staged, n) : nullptr;
  const std::int64_t staged_count = staged ? a.staged.count[n] : 0;
  std::int32_t* missing = a.missing.rows + n * a.missing.stride;
  std::int32_t* places = a.places ? a.places + n * a.selected.stride : nullptr;
  std::array<std::int64_t, kTally> tally{};
  std::int64_t next = 0, missed = 0;  // next: the first staged row not below the current one
  for (std::int64_t i = 0; i < a.selected.count[n]; ++i) {
    const std::int32_t r = selected[i];
    while (next < staged_count && staged[next] < r) ++next;
    std::int32_t place;
    if (r < a.prefix_rows) {
      place = row_place(Region::prefix, r);
    } else if (r >= span.ring_first) {
      place = row_place(Region::ring, r % a.ring_rows);
    } else if (slots && slots[r] >= 0) {
      place = row_place(Region::cache, slots[r]);
      ++tally[kCacheHits];
    } else if (next < staged_count && staged[next] == r) {
      place = row_place(Region::staging, next);
      ++tally[kStagedHits];
    } else {
      check(missed < a.missing.stride, "locate: the list of missing rows has room for them");
      place = row_place(Region::staging, staged_count + missed);
      missing[missed++] = r;
    }
    if (places) places[i] = place;
  }
  a.missing.count[n] = static_cast<std::int32_t>(missed);
  tally[kAttended] = a.selected.count[n];
  tally[kMissed] = missed;
  return tally;
}

}  // namespace

void locate(const LocateArgs& a) {
  std::vector<std::array<std::int64_t, kTally>> tallies(a.batch.count * a.kv_heads);
  parallel_for(std::ssize(tallies), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) tallies[n] = locate_list(a, n);
  });
  if (a.tally)
    for (const auto& tally : tallies)
      for (int i = 0; i < kTally; ++i) a.tally[i] += tally[i];
}

std::int64_t gather(const GatherArgs& a) {
  constexpr std::int64_t kAhead = 16;  // rows lie anywhere: their first lines are asked for before they are needed
  const std::int64_t lists = a.batch.count * a.kv_heads;
  std::int64_t most = 0, total = 0;
  for (std::int64_t n = 0; n < lists; ++n) {
    const std::int64_t first = a.dst_first ? a.dst_first[n] : 0;
    check(first + a.rows.count[n] <= a.dst.rows, "gather: the rows fit in staging");
    most = std::max<std::int64_t>(most, a.rows.count[n]);
    total += a.rows.count[n];
  }
  constexpr std::int64_t kPiece = 256;
  const std::int64_t pieces = (most + kPiece - 1) / kPiece;
  parallel_for(lists * pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const std::int64_t n = p / pieces, t = n / a.kv_heads, h = n % a.kv_heads, first = p % pieces * kPiece;
      const std::int64_t last = std::min<std::int64_t>(first + kPiece, a.rows.count[n]);
      const std::int32_t* rows = list(a.rows, n);
      const std::byte* src = a.src.data + a.batch.spans[t].host_first * a.row_bytes + h * a.src.head_stride;
      std::byte* dst =
          tile_of(a.dst, t).data + h * a.dst.head_stride + (a.dst_first ? a.dst_first[n] : 0) * a.row_bytes;
      for (std::int64_t i = first; i < last; ++i) {
        if (i + kAhead < last)
          for (std::int64_t b = 0; b < a.row_bytes; b += 64)
            __builtin_prefetch(src + (rows[i + kAhead] - a.src.first) * a.row_bytes + b);
        check(rows[i] >= a.src.first && rows[i] < a.src.first + a.src.rows, "gather: the source holds the row");
        std::memcpy(dst + i * a.row_bytes, src + (rows[i] - a.src.first) * a.row_bytes, a.row_bytes);
      }
    }
  });
  return total * a.row_bytes;
}

namespace {

/// The slots that are given away, in ascending order, `wanted` of them at most: empty ones, then those used longest
/// ago; of equals the lowest. Never those used now.
std::vector<std::int32_t> free_slots(const std::int32_t* row_of, const std::int32_t* used_at, std::int64_t slots,
                                     std::int32_t now, std::int64_t wanted) {
  std::vector<std::uint64_t> order;
  order.reserve(slots);
  for (std::int64_t s = 0; s < slots; ++s) {
    if (row_of[s] >= 0 && used_at[s] == now) continue;
    // From unsigned distances, so that any values of used_at are in order.
    const std::uint64_t age = row_of[s] < 0 ? ~std::uint32_t{0} : static_cast<std::uint32_t>(now) - used_at[s];
    order.push_back((~std::uint32_t{0} - age) << 32 | static_cast<std::uint64_t>(s));
  }
  wanted = std::min<std::int64_t>(wanted, static_cast<std::int64_t>(order.size()));
  std::nth_element(order.begin(), order.begin() + wanted, order.end());
  std::vector<std::int32_t> out(wanted);
  for (std::int64_t i = 0; i < wanted; ++i) out[i] = static_cast<std::int32_t>(order[i] & 0xffffffffu);
  std::sort(out.begin(), out.end());
  return out;
}

void retain_list(const RetainArgs& a, std::int64_t n) {
  const std::int64_t t = n / a.kv_heads, h = n % a.kv_heads, slots = a.resident.rows;
  const StepSpan& span = a.batch.spans[t];
  const std::int32_t now = span.rows, *rows = list(a.rows, n);
  const std::int32_t* places = a.places ? a.places + n * a.rows.stride : nullptr;
  std::int32_t* slot_of = a.resident.slot_of + span.slot * a.resident.slot_of_session + h * a.resident.stride;
  std::int32_t* row_of = a.resident.row_of + span.slot * a.resident.row_of_session + h * slots;
  std::int32_t* used_at = a.resident.used_at + span.slot * a.resident.row_of_session + h * slots;
  struct Row {
    std::int32_t row;
    std::int64_t index;  // in staging
  };
  std::vector<Row> incoming;
  for (std::int64_t i = 0; i < a.rows.count[n]; ++i) {
    const std::int32_t r = rows[i];
    if (slot_of[r] >= 0) {
      used_at[slot_of[r]] = now;
      continue;
    }
    const bool staged = !places || place_region(places[i]) == Region::staging;
    if (staged && r >= a.begin && r < span.ring_first)
      incoming.push_back({r, places ? place_index(places[i]) : r - a.regions.staging.first});
  }
  if (incoming.empty()) return;
  const std::vector<std::int32_t> free =
      free_slots(row_of, used_at, slots, now, static_cast<std::int64_t>(incoming.size()));
  const std::byte* staging = tile_of(a.regions.staging, t).data + h * a.regions.staging.head_stride;
  std::byte* cache = tile_of(a.regions.cache, span.slot).data + h * a.regions.cache.head_stride;
  for (std::size_t i = 0; i < free.size(); ++i) {
    const std::int32_t slot = free[i];
    if (row_of[slot] >= 0) slot_of[row_of[slot]] = -1;
    row_of[slot] = incoming[i].row;
    slot_of[incoming[i].row] = slot;
    used_at[slot] = now;
    std::memcpy(cache + slot * a.row_bytes, staging + incoming[i].index * a.row_bytes, a.row_bytes);
  }
}

}  // namespace

void retain(const RetainArgs& a) {
  if (a.resident.rows == 0) return;
  parallel_for(a.batch.count * a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) retain_list(a, n);
  });
}

void fill(const FillArgs& a) {
  parallel_for(a.count, 1 << 16,
               [&](std::int64_t begin, std::int64_t end) { std::fill(a.out + begin, a.out + end, a.value); });
}

}  // namespace longhaul::cpu
