// KV rows in one run of memory, [outer][kv_head][row]: the host store, the resident prefix, the recent rings, the
// staging slots and the prefill buffer are all this, on the host or on the device. A view: the arena's owner owns the
// bytes.
#pragma once
#include <string_view>

#include "kernels/arena.h"
#include "kernels/device.h"
#include "offload/shape.h"

namespace longhaul {

class RowBlock {
 public:
  /// `rows` rows per KV head for each of `outer` (session and layer, slot, ...) indices, of which `session_runs` belong
  /// to one session; 0: what they hold is not ordered by session.
  RowBlock(Arena& arena, std::string_view name, const KvShape& shape, std::int64_t outer, std::int64_t rows,
           std::int64_t session_runs = 0)
      : type_(shape.row_type),
        row_bytes_(shape.row_bytes()),
        head_stride_(rows * row_bytes_),
        outer_stride_(shape.kv_heads * head_stride_),
        session_stride_(session_runs * outer_stride_),
        data_(arena.take_bytes(outer * outer_stride_, name)) {}

  /// The run of `rows` rows that starts at place `index` of run `outer` and holds absolute rows from `first`.
  KvTile tile(std::int64_t outer, std::int64_t index, std::int64_t first, std::int64_t rows) const {
    return {data_ + outer * outer_stride_ + index * row_bytes_, head_stride_, first, rows, session_stride_, type_};
  }

 private:
  RowType type_;
  std::int64_t row_bytes_, head_stride_, outer_stride_, session_stride_;
  std::byte* data_;
};

/// Copies the rows of `src` to `dst`, all KV heads of `runs` consecutive runs of a block in one strided copy.
inline void copy_rows(Stream& stream, const KvShape& shape, const KvTile& dst, const KvTile& src, CopyKind kind,
                      std::int64_t runs = 1) {
  if (src.rows == 0) return;
  stream.copy({.dst = dst.data,
               .src = src.data,
               .width = src.rows * shape.row_bytes(),
               .height = runs * shape.kv_heads,
               .dst_pitch = dst.head_stride,
               .src_pitch = src.head_stride,
               .kind = kind});
}

/// Writes activations' rows to where they are kept, as they are kept there; `rows` as in StoreRowsArgs.
inline void keep_rows(Stream& stream, const KvShape& shape, const KvTile& dst, const KvTile& src,
                      const std::int32_t* rows = nullptr) {
  if (dst.rows == 0) return;
  stream.launch(StoreRowsArgs{
      .src = src, .dst = dst, .rows = rows, .act = shape.act, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim});
}

}  // namespace longhaul
