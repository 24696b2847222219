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

__device__ inline int warp_sum(int x) { return __reduce_add_sync(~0u, x); }

/// The lengths of segments, segment = token * kv_heads + head.
struct RowCounts {
  const std::int32_t* counts = nullptr;  // [segments]; null: by the spans
  const StepSpan* spans = nullptr;
  StepRows from = StepRows::tile;
  std::int64_t first = 0, rows = 0;  // of the tile
  int segments = 0, kv_heads = 1;

  __device__ int operator[](int segment) const {
    if (counts != nullptr) return counts[segment];
    const StepSpan& span = spans[segment / kv_heads];
    if (from == StepRows::ring) return span.rows - span.ring_first;
    return static_cast<int>(max(std::int64_t{0}, min(span.rows - first, rows)));
  }
  __device__ int units(int segment) const { return ((*this)[segment] + kUnit - 1) / kUnit; }

  /// Units that each of `blocks` blocks takes. Called by whole warps, as are the functions below.
  __device__ int share(int blocks) const {
    int mine = 0;
    for (int s = static_cast<int>(threadIdx.x) % 32; s < segments; s += 32) mine += units(s);
    return (warp_sum(mine) + blocks - 1) / blocks;
  }
};

/// A unit by its segment. `segment` is the number of segments where the units end before it.
struct UnitAt {
  int segment, index;  // of the unit in its segment
};
__device__ inline UnitAt find_unit(const RowCounts& counts, int unit) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int base = 0; base < counts.segments; base += 32) {
    const int units = base + lane < counts.segments ? counts.units(base + lane) : 0;
    int end = units;  // of this lane's segment
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int before = __shfl_up_sync(~0u, end, offset);
      if (lane >= offset) end += before;
    }
    const unsigned later = __ballot_sync(~0u, end > unit);
    if (later != 0) {
      const int at = __ffs(static_cast<int>(later)) - 1;
      return {base + at, unit - __shfl_sync(~0u, end - units, at)};
    }
    unit -= __shfl_sync(~0u, end, 31);
  }
  return {counts.segments, 0};
}

/// body(segment, first row, last row, part) for every part of this block.
template <class Body>
__device__ void for_each_part(const RowCounts& counts, const Body& body) {
  const int share = counts.share(static_cast<int>(gridDim.x));
  if (share == 0) return;
  auto [segment, index] = find_unit(counts, static_cast<int>(blockIdx.x) * share);
  for (int left = share; left > 0 && segment < counts.segments; ++segment, index = 0) {
    const int rows = counts[segment], units = min(counts.units(segment) - index, left);
    if (units <= 0) continue;
    body(segment, index * kUnit, min((index + units) * kUnit, rows), static_cast<int>(blockIdx.x) + segment);
    left -= units;
  }
}

/// Consecutive parts.
struct PartRange {
  int first, count;
};
__device__ inline PartRange parts_of(const RowCounts& counts, int segment, int blocks) {
  int before = 0, total = 0;  // units
  for (int s = static_cast<int>(threadIdx.x) % 32; s < counts.segments; s += 32) {
    const int units = counts.units(s);
    total += units;
    if (s < segment) before += units;
  }
  const int share = (warp_sum(total) + blocks - 1) / blocks, units = counts.units(segment);
  before = warp_sum(before);
  if (units == 0) return {0, 0};
  const int first = before / share, last = (before + units - 1) / share;
  return {first + segment, last - first + 1};
}

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
