// What the steps of select share: where its scratch holds what, which rows of a span compete, and keys. Device code
// only.
#pragma once
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/select.h"

namespace longhaul::cuda {

/// Rows [0, head) and [tail, rows) are in without a score; of those between, `wanted` compete for a place.
struct Competition {
  int rows, head, tail, wanted;
  __device__ bool open() const { return wanted > 0; }
  __device__ bool competes(int row) const { return row >= head && row < tail; }
  /// Rows before `row` that are in without a score.
  __device__ int given_before(int row) const { return min(row, head) + max(0, row - tail); }
};

__device__ inline Competition competition(const SelectArgs& a, std::int64_t place) {
  const StepSpan span = a.batch.spans[place];
  if (span.budget >= span.rows) return {span.rows, span.rows, span.rows, 0};
  if (a.by == SelectBy::none) return {span.rows, span.sinks, span.rows - (span.budget - span.sinks), 0};
  return {span.rows, span.sinks, span.rows - span.window, span.budget - span.sinks - span.window};
}

/// The float's bits, so turned that unsigned integers are in its order: -0 as 0, NaN below all.
__device__ inline std::uint32_t ordered(float x) {
  const std::uint32_t bits = __float_as_uint(x + 0.0f);
  return x == x ? bits ^ (static_cast<std::uint32_t>(static_cast<std::int32_t>(bits) >> 31) | 0x80000000u) : 0;
}
/// Of a share of the softmax. Below 2, whatever the sum says (that of another query, or one that overflows): keys and
/// their digits are in one order.
__device__ inline std::uint32_t share_key(float share) {
  return __float_as_uint(fminf(fmaxf(share, 0.0f), 0x1.fffffep0f)) | 0x80000000u;
}
__device__ inline float value_of(std::uint32_t key) { return __uint_as_float(key >> 31 ? key ^ 0x80000000u : ~key); }

/// A row's share of each query head's softmax is kept as a byte, of this times its share: 255 for twice the key's power
/// of 2. So a listed row's shares are right to a 256th of its key.
__device__ inline std::uint32_t share_exponent(std::uint32_t key) { return max(key & 0x7f800000u, 27u << 23); }
__device__ inline float share_scale(std::uint32_t key) {
  return __uint_as_float((260u << 23 | 0x7f0000u) - share_exponent(key));
}
__device__ inline float share_unit(std::uint32_t key) {
  return __uint_as_float(share_exponent(key) - (7u << 23)) * (256.0f / 255);
}

/// Of 2^40 for all the mass there is. NaN and what is not above 0 weigh nothing.
__device__ __noinline__ inline Units units_of(std::uint32_t key, double mass) {
  const double x = value_of(key) / mass * 0x1p40;
  return key != 0 && x > 0 ? static_cast<Units>(fmin(x, 0x1p40)) : 0;
}

}  // namespace longhaul::cuda
