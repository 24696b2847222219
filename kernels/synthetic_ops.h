// What stands in for a model's files and documents when only speed is measured: random memory, and rows that another
// run selected; and a checksum that shows that rows have arrived. Both devices give the same bits
// (kernels/synthetic.h).
#pragma once
#include "kernels/sparse_ops.h"

namespace longhaul {

/// `count` elements: mean + spread * u, u uniform in [-1, 1). Element i depends on `seed` and i alone.
struct RandomFillArgs {
  void* out;
  DType type;
  std::int64_t count;
  std::uint64_t seed;
  float mean = 0, spread = 1;
};

/// Rows in place of those that queries select: sinks and window as selection has them and between them the rows of a
/// recorded step, or with no recording rows that no step of the last (rows / budget) has listed. So what a trained
/// model's reuse makes of a step's time can be measured with random weights.
/// A step stands for itself by its span's rows; a recording is run through forth and back, so that each step follows a
/// neighbour. KV head h takes list `first_list + h % heads`; those of the same list are kHeadShift steps apart.
struct ReplayArgs {
  StepBatch batch;
  const std::int32_t* rows = nullptr;   // [steps, lists, stride], each list ascending; null: no reuse
  const std::int32_t* count = nullptr;  // [steps, lists]
  std::int64_t steps = 0, lists = 0, stride = 0;
  std::int64_t first_list = 0, heads = 1, shift = 0;  // shift: steps that this layer is ahead of the others
  std::int64_t kv_heads;
  float recall = 1;  // share of the rows between that are given right; of the others the row after, where it is free:
                     // what a predicted query selects
  RowList out;       // out.stride >= any span's budget
};

/// A checksum of rows and of where they stand: the sum over their 8-byte words, each mixed with its row, KV head and
/// place, so that the parts of a layer add up to the whole whoever adds them.
struct ChecksumArgs {
  KvTile kv;
  std::int64_t kv_heads, row_bytes;  // row_bytes is a multiple of 8
  std::uint64_t* sum;                // +=
};

}  // namespace longhaul
