// The keys that fit_labels looks at, packed into pinned memory of the host.
#include "kernels/base/bytes.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;

/// A thread per 16 bytes, over the link. width: packs in a key.
__global__ void __launch_bounds__(kThreads) pack_rows(const __grid_constant__ FitLabelsArgs a, uint4* out, int width) {
  const std::int64_t item = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, h = blockIdx.y;
  const std::int64_t i = item / (2 * width), count = fit_keys(a.kv.rows);
  const int c = static_cast<int>(item % (2 * width));
  if (i >= count || (c >= width && i >= a.queries)) return;
  const std::int64_t row = c < width ? fit_key(i, a.kv.rows) : a.q_pos + i;
  const auto* rows = reinterpret_cast<const uint4*>(a.kv.data + h * a.kv.head_stride);
  out[h * count * 2 * width + item] = rows[row * 2 * width + c % width];
}

}  // namespace

void pack_keys(const FitLabelsArgs& a, std::byte* out, cudaStream_t stream) {
  if (a.kv.rows == 0) return;
  const std::int64_t width = a.head_dim * size_of(a.act) / 16;
  Launch{.grid = {static_cast<unsigned>(ceil_div(fit_keys(a.kv.rows) * 2 * width, kThreads)),
                  static_cast<unsigned>(a.kv_heads)},
         .block = kThreads,
         .stream = stream}(pack_rows, a, reinterpret_cast<uint4*>(out), static_cast<int>(width));
}

}  // namespace longhaul::cuda
