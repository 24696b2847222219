// How the rows of a decode attention are dealt to thread blocks. The (token, KV head) pairs of a step, its segments,
// have lengths that only the device knows. Their rows, in units of 64 and laid end to end, are cut into equal shares,
// one for each block: so the grid depends on the device alone, and one long session among short ones keeps all blocks
// busy. What a block attends of one segment is a part. Block b's part of segment s has number b + s: along the units at
// every cut b grows or s does, so no two parts share a number, and those of a segment follow one another.
#pragma once
#include <cstdint>

#include "kernels/ops.h"

namespace longhaul::cuda {

inline constexpr int kUnit = 64;  // rows

/// The lengths of segments, segment = token * kv_heads + head.
struct RowCounts {
  const std::int32_t* counts = nullptr;  // [segments]; null: by the spans, and the same for all heads
  const StepSpan* spans = nullptr;
  StepRows from = StepRows::tile;
  int first = 0, rows = 0;    // of the tile
  int entries = 0, same = 1;  // segments that share an entry
  int kv_heads = 1;
  std::int64_t window = 0;

  __device__ int rows_of(int entry) const {
    if (counts != nullptr) return counts[entry];
    const StepSpan& span = spans[entry];
    const int there = span.rows - (from == StepRows::ring ? first_of_ring(span, window) : first);
    return from == StepRows::ring ? there : max(0, min(there, rows));
  }
  __device__ int units_of(int entry) const { return (rows_of(entry) + kUnit - 1) / kUnit; }
  __device__ int operator[](int segment) const { return rows_of(segment / same); }
};

/// A unit, or a part, by number in its segment or in all.
struct UnitAt {
  int segment, index;
};
struct PartRange {
  int first, count;
};

/// The deal, as each warp works it out for itself: a lane has a run of entries. Whole warps call its functions.
class Deal {
 public:
  __device__ Deal(const RowCounts& counts, int blocks) : counts_(counts), run_((counts.entries + 31) / 32), before_(0) {
#pragma unroll 2
    for (int i = 0; i < run_; ++i) {
      const int entry = lane() * run_ + i;
      mine_ += entry < counts.entries ? units_of(entry) : 0;
    }
    const int end = inclusive_sum(mine_);
    before_ = end - mine_;
    total_ = __shfl_sync(~0u, end, 31);
    share_ = (total_ + blocks - 1) / blocks;
  }

  /// Those of a segment.
  __device__ PartRange parts_of(int segment) const {
    const int same = counts_.same, entry = segment / same, owner = entry / run_;
    int earlier = 0;  // units of the owner's entries before this one
    if (run_ > 1) {
      for (int e = owner * run_ + lane(); e < entry; e += 32) earlier += units_of(e);
      earlier = __reduce_add_sync(~0u, earlier);
    }
    const int units = counts_.units_of(entry);
    const int first = __shfl_sync(~0u, before_, owner) + earlier + segment % same * units;
    if (units == 0) return {0, 0};
    return {first / share_ + segment, (first + units - 1) / share_ - first / share_ + 1};
  }

  /// body(segment, first row, last row, part) for every part of this block.
  template <class Body>
  __device__ void for_each_part(const Body& body) const {
    const int first = static_cast<int>(blockIdx.x) * share_;
    if (first >= total_) return;
    auto [segment, index] = find(first);
    for (int left = min(share_, total_ - first); left > 0; ++segment, index = 0) {
      const int rows = counts_[segment], units = min((rows + kUnit - 1) / kUnit - index, left);
      if (units <= 0) continue;
      body(segment, index * kUnit, min((index + units) * kUnit, rows), static_cast<int>(blockIdx.x) + segment);
      left -= units;
    }
  }

 private:
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ int inclusive_sum(int x) {
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int before = __shfl_up_sync(~0u, x, offset);
      if (lane() >= offset) x += before;
    }
    return x;
  }
  /// Of all segments of the entry.
  __device__ int units_of(int entry) const { return counts_.units_of(entry) * counts_.same; }

  /// Of a unit before total_.
  __device__ UnitAt find(int unit) const {
    const int owner = __ffs(static_cast<int>(__ballot_sync(~0u, unit < before_ + mine_))) - 1;
    unit -= __shfl_sync(~0u, before_, owner);
    int entry = owner * run_;
    for (const int last = min(entry + run_, counts_.entries); run_ > 1; entry += 32) {
      const int units = entry + lane() < last ? units_of(entry + lane()) : 0, end = inclusive_sum(units);
      const unsigned later = __ballot_sync(~0u, unit < end);
      if (later == 0) {
        unit -= __shfl_sync(~0u, end, 31);
        continue;
      }
      const int at = __ffs(static_cast<int>(later)) - 1;
      unit -= __shfl_sync(~0u, end - units, at);
      entry += at;
      break;
    }
    const int units = counts_.units_of(entry);
    return {entry * counts_.same + unit / units, unit % units};
  }

  const RowCounts& counts_;
  int run_, before_, mine_ = 0, total_, share_;  // entries of a lane; units before its run, in it, in all, of a block
};

/// The parts of an attention, each a partial state of the query heads of a group, in the operator's `splits`.
struct Parts {
  float* o;    // [parts, group, head_dim], not divided by l
  float2* ml;  // [parts, group]
};
/// The set-th (0 or 1) of two.
inline Parts parts_in(float* splits, std::int64_t tokens, std::int64_t q_heads, std::int64_t kv_heads,
                      std::int64_t head_dim, int set) {
  const std::int64_t states = most_parts(tokens, kv_heads) * (q_heads / kv_heads);
  return {splits + set * states * head_dim, reinterpret_cast<float2*>(splits + 2 * states * head_dim) + set * states};
}

}  // namespace longhaul::cuda
