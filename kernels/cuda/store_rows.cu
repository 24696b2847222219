// store_rows: activations' rows as they are kept, a warp a row.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/row_codes.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

template <class T>
__global__ void __launch_bounds__(kThreads) store_some_rows(const __grid_constant__ StoreRowsArgs a) {
  const int lane = threadIdx.x % 32, d = static_cast<int>(a.head_dim);
  const std::int64_t place = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32, h = blockIdx.y;
  if (place >= a.dst.rows) return;
  std::int64_t index = place;
  if (a.rows != nullptr) {
    const std::int32_t row = a.rows[h * a.dst.rows + place];
    if (row < 0) return;
    index = row - a.src.first;
  }
  const T* from = reinterpret_cast<const T*>(a.src.data + h * a.src.head_stride) + index * 2 * d;
  std::byte* to =
      a.dst.data + h * a.dst.head_stride + place * row_bytes(a.dst.type, d, sizeof(T) == 2 ? DType::bf16 : DType::f32);
  if (a.dst.type == RowType::act) {
    constexpr int kPack = 16 / sizeof(T);
    for (int c = lane * kPack; c < 2 * d; c += 32 * kPack)
      *reinterpret_cast<uint4*>(reinterpret_cast<T*>(to) + c) = *reinterpret_cast<const uint4*>(from + c);
    return;
  }
  for (int g = 0; g < 2 * d / static_cast<int>(kRowGroup); ++g)
    encode_group(a.dst.type, to, d, g, widen(from[g * kRowGroup + lane]));
}

}  // namespace

void store_rows(const StoreRowsArgs& a, cudaStream_t stream) {
  if (a.dst.rows == 0) return;
  with_type(a.act, [&]<class T>(T) {
    Launch{.grid = {static_cast<unsigned>(ceil_div(a.dst.rows, kWarps)), static_cast<unsigned>(a.kv_heads)},
           .block = kThreads,
           .stream = stream}(store_some_rows<T>, a);
  });
}

}  // namespace longhaul::cuda
