// Where the parts of a batch are: a session's rows by slot, a token's lists by place.
#pragma once
#include "kernels/sparse_ops.h"

namespace longhaul::cpu {

/// The list that is the n-th of `l`: n counts tokens and, within a token, KV heads.
inline RowList list_of(const RowList& l, std::int64_t n) { return {l.rows + n * l.stride, l.count + n, l.stride}; }

/// The n-th of the tiles that lie `session_stride` apart.
inline KvTile tile_of(KvTile tile, std::int64_t n) {
  tile.data += n * tile.session_stride;
  return tile;
}

}  // namespace longhaul::cpu
