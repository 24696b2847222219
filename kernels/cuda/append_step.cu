// append_step: the new row of every session of a step, K | V and its label, in one launch.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/labels.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/row_codes.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 8, kDims = kThreads / kLanes;  // that share a dimension's product; dimensions of a block

/// The row's code of a dimension. Of bytes that two rows share only one row's half changes: the other row is of the
/// same session, so no one else writes it.
__device__ void put_code(std::byte* codes, int row, int bits, float x, float zero, float step) {
  if (bits == 16) {
    reinterpret_cast<bf16*>(codes)[row] = narrow<bf16>(x);
    return;
  }
  auto* bytes = reinterpret_cast<unsigned char*>(codes);
  const unsigned code = code_of(x, zero, 1 / step, static_cast<float>((1 << bits) - 1));
  if (bits == 8) bytes[row] = static_cast<unsigned char>(code);
  else if (row < 32) bytes[row] = static_cast<unsigned char>((bytes[row] & 0xf0) | code);
  else bytes[row - 32] = static_cast<unsigned char>((bytes[row - 32] & 0x0f) | code << 4);
}

/// Blocks by KV head, token and dimensions of the label; the first of these copies the row.
template <class T>
__global__ void __launch_bounds__(kThreads) append_step_rows(const __grid_constant__ AppendStepArgs a) {
  constexpr int kMostDim = 256, kPack = 16 / sizeof(T);
  let_next_start();
  const int h = static_cast<int>(blockIdx.x), t = static_cast<int>(blockIdx.y), d = static_cast<int>(a.head_dim);
  const int lane = static_cast<int>(threadIdx.x) % kLanes * 4;
  const int j = static_cast<int>(blockIdx.z) * kDims + static_cast<int>(threadIdx.x) / kLanes;
  const bool labelled = a.labels.codes != nullptr && j < a.labels.dims;
  const StepSpan span = a.batch.spans[t];
  const int row = span.rows - 1;
  Pack<float, 4> map[kMostDim / 4 / kLanes] = {};  // the basis is older than all that may still run
  float zero = 0, step = 1;
  if (labelled) {
    const LabelBasis basis = basis_of(a.labels, span.slot, h, d);
    zero = basis.zero[j], step = basis.step[j];
#pragma unroll
    for (int i = 0; i < kMostDim / 4 / kLanes; ++i)
      if (const int c = i * kLanes * 4 + lane; c < d) map[i] = load_map(basis.key_map + j * d + c);
  }
  wait_for_previous();

  const T* k = static_cast<const T*>(a.qkv) + (t * (a.q_heads + 2 * a.kv_heads) + a.q_heads + h) * d;
  if (blockIdx.z == 0) {
    const bool in_prefix = row < a.prefix.rows;
    const KvTile& tile = in_prefix ? a.prefix : a.ring;
    std::byte* to = tile.data + span.slot * tile.session_stride + h * tile.head_stride +
                    (in_prefix ? row : row % static_cast<int>(a.ring.rows)) * row_bytes(tile.type, d, a.act);
    const T* v = k + a.kv_heads * d;
    if (tile.type == RowType::act) {
      for (int c = static_cast<int>(threadIdx.x) * kPack; c < 2 * d; c += kThreads * kPack)
        *reinterpret_cast<uint4*>(reinterpret_cast<T*>(to) + c) =
            *reinterpret_cast<const uint4*>(c < d ? k + c : v + c - d);
    } else {
      for (int c = static_cast<int>(threadIdx.x); c < 2 * d; c += kThreads)  // a warp a group
        encode_group(tile.type, to, d, c / static_cast<int>(kRowGroup), widen(c < d ? k[c] : v[c - d]));
    }
  }
  float x = 0;
#pragma unroll
  for (int i = 0; i < kMostDim / 4 / kLanes; ++i)
    if (const int c = i * kLanes * 4 + lane; c < d) {
      const auto key = load<4>(k + c);
#pragma unroll
      for (int e = 0; e < 4; ++e) x += map[i].v[e] * key.v[e];
    }
#pragma unroll
  for (int o = kLanes / 2; o > 0; o /= 2) x += __shfl_xor_sync(~0u, x, o);
  if (labelled && lane == 0)
    put_code(codes_of(a.labels, span.slot, h, row / kAttendBlock, j), row % static_cast<int>(kAttendBlock),
             static_cast<int>(a.labels.bits), x, zero, step);
}

}  // namespace

void append_step(const AppendStepArgs& a, cudaStream_t stream) {
  if (a.batch.count == 0) return;
  const std::int64_t parts = a.labels.codes == nullptr ? 1 : ceil_div(a.labels.dims, kDims);
  with_type(a.act, [&]<class T>(T) {
    Launch{
        .grid = {static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(a.batch.count), static_cast<unsigned>(parts)},
        .block = kThreads,
        .stream = stream,
        .overlap = true}(append_step_rows<T>, a);
  });
}

}  // namespace longhaul::cuda
