// append, append_step: new rows to where they are kept.
#include <cstring>

#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/labels.h"
#include "kernels/cpu/lists.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"

namespace longhaul::cpu {
namespace {

/// One token's k and v of every KV head; `row` is its row of KV head 0.
template <class Args>
void append_row(const Args& a, std::int64_t t, std::byte* row, std::int64_t head_stride) {
  const std::int64_t d = a.head_dim, width = (a.q_heads + 2 * a.kv_heads) * d, bytes = d * size_of(a.act);
  for (std::int64_t h = 0; h < a.kv_heads; ++h) {
    const std::byte* k = at(a.qkv, a.act, t * width + (a.q_heads + h) * d);
    std::memcpy(row + h * head_stride, k, bytes);
    std::memcpy(row + h * head_stride + bytes, k + a.kv_heads * bytes, bytes);
  }
}

}  // namespace

void append(const AppendArgs& a) {
  check(a.dst.rows == a.tokens, "append: as many rows as tokens");
  const std::int64_t row_bytes = 2 * a.head_dim * size_of(a.act);
  parallel_for(a.tokens, row_grain(2 * a.kv_heads * a.head_dim), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) append_row(a, t, a.dst.data + t * row_bytes, a.dst.head_stride);
  });
}

void append_step(const AppendStepArgs& a) {
  const std::int64_t row_bytes = 2 * a.head_dim * size_of(a.act);
  for (std::int64_t t = 0; t < a.batch.count; ++t) {
    const StepSpan& span = a.batch.spans[t];
    const std::int64_t r = span.rows - 1;
    const bool resident = r < a.prefix.rows;
    check(r >= 0 && (resident || a.ring.rows > 0), "append_step: there is a place for the row");
    KvTile row = tile_of(resident ? a.prefix : a.ring, span.slot);
    row.data += (resident ? r : r % a.ring.rows) * row_bytes;
    row.first = r;
    row.rows = 1;
    append_row(a, t, row.data, row.head_stride);
    if (a.labels.codes != nullptr) label_rows({row, labels_of(a.labels, span.slot), a.act, a.kv_heads, a.head_dim});
  }
}

}  // namespace longhaul::cpu
