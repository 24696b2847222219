// How the rows of a decode attention are dealt to thread blocks. The (token, KV head) pairs of a step, its segments,
// have lengths that only the device knows. Their rows, in units of 128 and laid end to end, are cut into equal shares,
// one for each block: so the grid depends on the device alone, and one long session among short ones keeps all blocks
// busy. What a block attends of one segment is a part. Block b's part of segment s has number b + s: along the units at
// every cut b grows or s does, so no two parts share a number, and those of a segment follow one another.
#pragma once
#include <cstdint>
#include <cub/block/block_scan.cuh>

#include "kernels/ops.h"

namespace longhaul::cuda {

inline constexpr int kUnit = 128;  // rows

/// The lengths of segments, segment = token * kv_heads + head.
struct RowCounts {
  const std::int32_t* counts = nullptr;  // [segments]; null: by the spans, and the same for all heads
  const StepSpan* spans = nullptr;
  StepRows from = StepRows::tile;
  std::int64_t first = 0, rows = 0;  // of the tile
  int segments = 0, kv_heads = 1;

  __device__ int same() const { return counts != nullptr ? 1 : kv_heads; }  // segments that share an entry
  __device__ int entries() const { return segments / same(); }
  __device__ int rows_of(int entry) const {
    if (counts != nullptr) return counts[entry];
    const StepSpan& span = spans[entry];
    if (from == StepRows::ring) return span.rows - span.ring_first;
    return static_cast<int>(max(std::int64_t{0}, min(span.rows - first, rows)));
  }
  __device__ int units_of(int entry) const { return (rows_of(entry) + kUnit - 1) / kUnit; }
  __device__ int operator[](int segment) const { return rows_of(segment / same()); }
};

/// A unit, or a part, by number in its segment or in all.
struct UnitAt {
  int segment, index;
};
struct PartRange {
  int first, count;
};

/// The deal, as each block of `Threads` threads works it out for itself. All of them call its functions.
template <int Threads>
class Deal {
  using Scan = cub::BlockScan<int, Threads>;

 public:
  struct Shared {
    typename Scan::TempStorage scan;
    int found[2];
  };

  __device__ Deal(const RowCounts& counts, int blocks, Shared& shared) : counts_(counts), shared_(shared) {
    const int entries = counts.entries(), run = (entries + Threads - 1) / Threads;
    begin_ = min(static_cast<int>(threadIdx.x) * run, entries);
    end_ = min(begin_ + run, entries);
#pragma unroll 4
    for (int e = begin_; e < end_; ++e) mine_ += counts.units_of(e) * counts.same();
    Scan(shared.scan).ExclusiveSum(mine_, before_, total_);
    share_ = (total_ + blocks - 1) / blocks;
  }
  int __device__ share() const { return share_; }
  int __device__ total() const { return total_; }

  /// Of a unit before total().
  __device__ UnitAt find(int unit) const {
    if (before_ <= unit && unit < before_ + mine_) {
      int entry = begin_, units = counts_.units_of(entry);
      for (unit -= before_; unit >= units * counts_.same(); units = counts_.units_of(++entry))
        unit -= units * counts_.same();
      shared_.found[0] = entry * counts_.same() + unit / units;
      shared_.found[1] = unit % units;
    }
    __syncthreads();
    return {shared_.found[0], shared_.found[1]};
  }

  __device__ PartRange parts_of(int segment) const {
    const int entry = segment / counts_.same();
    if (begin_ <= entry && entry < end_) {
      int first = before_;
      for (int e = begin_; e < entry; ++e) first += counts_.units_of(e) * counts_.same();
      shared_.found[1] = counts_.units_of(entry);
      shared_.found[0] = first + segment % counts_.same() * shared_.found[1];
    }
    __syncthreads();
    const int first = shared_.found[0], units = shared_.found[1];
    __syncthreads();  // for the next to use `shared`
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
  const RowCounts& counts_;
  Shared& shared_;
  int begin_, end_, mine_ = 0, before_, total_, share_;  // this thread's entries; units
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
