// append_step: the new row of every session of a step, K | V and its label, in one launch.
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/labels.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/row_codes.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 8;  // that share a dimension's product

/// Codes of the row whose key is `key`, in shared memory. Of bytes that two rows share only one row's half changes: the
/// other row is of the same session, so no one else writes it.
__device__ void append_label(const AppendStepArgs& a, const StepSpan& span, std::int64_t h, const float* key) {
  const LabelTile& l = a.labels;
  const int d = static_cast<int>(a.head_dim), dims = static_cast<int>(l.dims), bits = static_cast<int>(l.bits);
  const int row = span.rows - 1, r = row % kAttendBlock;
  const LabelBasis basis = basis_of(l, span.slot, h, d);
  for (int j0 = 0; j0 < dims; j0 += kThreads / kLanes) {
    const int j = j0 + threadIdx.x / kLanes;
    float x = 0;
    if (j < dims)
      for (int c = threadIdx.x % kLanes * 4; c < d; c += kLanes * 4) {
        const auto map = load_map(basis.key_map + j * d + c), k = load<4>(key + c);
        for (int i = 0; i < 4; ++i) x += map.v[i] * k.v[i];
      }
    for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
    if (j >= dims || threadIdx.x % kLanes != 0) continue;
    std::byte* codes = codes_of(l, span.slot, h, row / kAttendBlock, j);
    if (bits == 16) {
      reinterpret_cast<bf16*>(codes)[r] = narrow<bf16>(x);
      continue;
    }
    auto* bytes = reinterpret_cast<unsigned char*>(codes);
    const unsigned code = code_of(x, basis.zero[j], 1 / basis.step[j], static_cast<float>((1 << bits) - 1));
    if (bits == 8) bytes[r] = static_cast<unsigned char>(code);
    else if (r < 32) bytes[r] = static_cast<unsigned char>((bytes[r] & 0xf0) | code);
    else bytes[r - 32] = static_cast<unsigned char>((bytes[r - 32] & 0x0f) | code << 4);
  }
}

/// A block per KV head and token.
template <class T>
__global__ void __launch_bounds__(kThreads) append_step_rows(const __grid_constant__ AppendStepArgs a) {
  constexpr int kMostDim = 256;
  __shared__ alignas(16) float key[kMostDim];
  const std::int64_t h = blockIdx.x, t = blockIdx.y, d = a.head_dim;
  const StepSpan span = a.batch.spans[t];
  const std::int64_t row = span.rows - 1;
  const bool in_prefix = row < a.prefix.rows;
  const KvTile& tile = in_prefix ? a.prefix : a.ring;
  std::byte* to = tile.data + span.slot * tile.session_stride + h * tile.head_stride +
                  (in_prefix ? row : row % a.ring.rows) * row_bytes(tile.type, d, a.act);
  const T* k = static_cast<const T*>(a.qkv) + (t * (a.q_heads + 2 * a.kv_heads) + a.q_heads + h) * d;
  const T* v = k + a.kv_heads * d;
  if (tile.type == RowType::act) {
    constexpr int kPack = 16 / sizeof(T);
    for (std::int64_t c = threadIdx.x * kPack; c < 2 * d; c += kThreads * kPack)
      *reinterpret_cast<uint4*>(reinterpret_cast<T*>(to) + c) =
          *reinterpret_cast<const uint4*>(c < d ? k + c : v + c - d);
  } else {
    for (int c = threadIdx.x; c < 2 * d; c += kThreads)  // a warp a group
      encode_group(tile.type, to, static_cast<int>(d), c / static_cast<int>(kRowGroup), widen(c < d ? k[c] : v[c - d]));
  }
  if (a.labels.codes == nullptr) return;
  for (std::int64_t c = threadIdx.x; c < d; c += kThreads) key[c] = widen(k[c]);
  __syncthreads();
  append_label(a, span, h, key);
}

}  // namespace

void append_step(const AppendStepArgs& a, cudaStream_t stream) {
  if (a.batch.count == 0) return;
  with_type(a.act, [&]<class T>(T) {
    Launch{.grid = {static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(a.batch.count)},
           .block = kThreads,
           .stream = stream}(append_step_rows<T>, a);
  });
}

}  // namespace longhaul::cuda
