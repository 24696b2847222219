// append, append_step: new rows to where they are kept.
#include <algorithm>
#include <cstring>

#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/labels.h"
#include "kernels/cpu/lists.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/row_codes.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

/// Token t's key of KV head 0; the other heads' follow, then the values.
template <class Args>
const std::byte* keys_of(const Args& a, std::int64_t t) {
  return at(a.qkv, a.act, (t * (a.q_heads + 2 * a.kv_heads) + a.q_heads) * a.head_dim);
}

/// One token's k and v of every KV head; `row` is its row of KV head 0.
template <class Args>
void append_row(const Args& a, std::int64_t t, RowType type, std::byte* row, std::int64_t head_stride) {
  const std::int64_t d = a.head_dim, bytes = d * size_of(a.act);
  for (std::int64_t h = 0; h < a.kv_heads; ++h, row += head_stride) {
    const std::byte *k = keys_of(a, t) + h * bytes, *v = k + a.kv_heads * bytes;
    if (type == RowType::act) {
      std::memcpy(row, k, bytes);
      std::memcpy(row + bytes, v, bytes);
      continue;
    }
    thread_local Scratch scratch;
    float* x = scratch.get<float>(2 * d);
    std::copy_n(read_row(k, a.act, d, x), a.act == DType::f32 ? d : 0, x);
    std::copy_n(read_row(v, a.act, d, x + d), a.act == DType::f32 ? d : 0, x + d);
    encode_row(type, x, d, row);
  }
}

}  // namespace

void append(const AppendArgs& a) {
  check(a.dst.rows == a.tokens && a.dst.type == RowType::act, "append: as many rows as tokens, of activations");
  const std::int64_t bytes = row_bytes(RowType::act, a.head_dim, a.act);
  parallel_for(a.tokens, row_grain(2 * a.kv_heads * a.head_dim), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      append_row(a, t, RowType::act, a.dst.data + t * bytes, a.dst.head_stride);
  });
}

void append_step(const AppendStepArgs& a) {
  for (std::int64_t t = 0; t < a.batch.count; ++t) {
    const StepSpan& span = a.batch.spans[t];
    const std::int64_t r = span.rows - 1;
    const bool resident = r < a.prefix.rows;
    check(r >= 0 && (resident || a.ring.rows > 0), "append_step: there is a place for the row");
    const KvTile to = tile_of(resident ? a.prefix : a.ring, span.slot);
    const std::int64_t place = resident ? r : r % a.ring.rows;
    append_row(a, t, to.type, to.data + place * row_bytes(to.type, a.head_dim, a.act), to.head_stride);
    if (a.labels.codes == nullptr) continue;
    // Of the key as it was computed, whatever the row has kept of it.
    const KvTile keys{const_cast<std::byte*>(keys_of(a, t)), a.head_dim * size_of(a.act), r, 1};
    label_rows({keys, labels_of(a.labels, span.slot), a.act, a.kv_heads, a.head_dim});
  }
}

}  // namespace longhaul::cpu
