// Where the parts of a layer's labels are, and a coordinate's code, as kernels/cpu/labels.h and simd().encode have
// them. Device code only.
#pragma once
#include "kernels/cuda/pack.cuh"
#include "kernels/sparse_ops.h"

namespace longhaul::cuda {

/// One KV head's basis, as LabelTile orders it.
struct LabelBasis {
  const float *key_map, *query_map, *zero, *step;
};
__device__ inline LabelBasis basis_of(const LabelTile& l, std::int64_t slot, std::int64_t head, std::int64_t head_dim) {
  const float* at = l.basis + slot * l.basis_stride + head * label_basis_floats(l.dims, head_dim);
  const std::int64_t map = l.dims * head_dim;
  return {at, at + map, at + 2 * map, at + 2 * map + l.dims};
}

/// The codes of one dimension of a block of rows: kAttendBlock * bits / 8 bytes.
__device__ inline std::byte* codes_of(const LabelTile& l, std::int64_t slot, std::int64_t head, std::int64_t block,
                                      std::int64_t dim) {
  return l.codes + slot * l.session_stride + head * l.head_stride + block * label_block_bytes(l.dims, l.bits) +
         dim * label_block_bytes(1, l.bits);
}

/// `top`: the highest code. NaN gives 0. Times the step's inverse: at a tie of two codes it may give the other one.
__device__ inline unsigned code_of(float x, float zero, float inverse_step, float top) {
  return static_cast<unsigned>(fminf(fmaxf((x - zero) * inverse_step, 0.0f), top) + 0.5f);
}

/// Four neighbours of a map: with an odd number of dimensions a head's map is aligned to two.
__device__ inline Pack<float, 4> load_map(const float* at) {
  const auto low = load<2>(at), high = load<2>(at + 2);
  return {low.v[0], low.v[1], high.v[0], high.v[1]};
}

}  // namespace longhaul::cuda
