// Where the parts of a layer's labels are.
#pragma once
#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/sparse_ops.h"

namespace longhaul::cpu {

/// One KV head's basis, as LabelTile orders it.
struct Basis {
  float *key_map, *query_map, *zero, *step;
};
inline Basis basis_at(float* at, std::int64_t dims, std::int64_t head_dim) {
  const std::int64_t map = dims * head_dim;
  return {at, at + map, at + 2 * map, at + 2 * map + dims};
}
inline Basis basis_of(const LabelTile& l, std::int64_t head, std::int64_t head_dim) {
  return basis_at(l.basis + head * label_basis_floats(l.dims, head_dim), l.dims, head_dim);
}

/// One session's labels of a tile that lies by slot.
inline LabelTile labels_of(LabelTile l, std::int64_t slot) {
  l.codes += slot * l.session_stride;
  l.basis += slot * l.basis_stride;
  return l;
}

inline std::byte* label_block(const LabelTile& l, std::int64_t head, std::int64_t block) {
  return l.codes + head * l.head_stride + block * label_block_bytes(l.dims, l.bits);
}

inline void check_labels(const LabelTile& l, std::int64_t head_dim) {
  check(l.bits == 4 || l.bits == 8 || l.bits == 16, "labels have 4, 8 or 16 bits");
  check(l.dims >= 1 && l.dims <= head_dim, "labels have 1 to head_dim dimensions");
  check(head_dim % 8 == 0 && head_dim <= 256, "labels: head_dim is a multiple of 8 up to 256");
}

}  // namespace longhaul::cpu
