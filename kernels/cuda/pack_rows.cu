// The rows that fit_labels looks at, packed into pinned memory of the host.
#include "kernels/base/bytes.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;

/// A thread per 16 bytes, over the link. width: of a row, in packs.
__global__ void __launch_bounds__(kThreads) pack(const __grid_constant__ FitLabelsArgs a, uint4* out, int width) {
  const std::int64_t item = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, h = blockIdx.y;
  const std::int64_t i = item / width, count = fit_keys(a.kv.rows);
  if (i >= count + a.queries) return;
  const std::int64_t row = i < count ? fit_key(i, a.kv.rows) : a.q_pos + i - count;
  const auto* rows = reinterpret_cast<const uint4*>(a.kv.data + h * a.kv.head_stride);
  out[h * (count + a.queries) * width + item] = rows[row * width + item % width];
}

}  // namespace

void pack_rows(const FitLabelsArgs& a, std::byte* out, cudaStream_t stream) {
  if (a.kv.rows == 0) return;
  const std::int64_t width = 2 * a.head_dim * size_of(a.act) / 16;
  Launch{.grid = {static_cast<unsigned>(ceil_div((fit_keys(a.kv.rows) + a.queries) * width, kThreads)),
                  static_cast<unsigned>(a.kv_heads)},
         .block = kThreads,
         .stream = stream}(pack, a, reinterpret_cast<uint4*>(out), static_cast<int>(width));
}

}  // namespace longhaul::cuda
