// attend in bf16 on the tensor cores of any device since Ampere, head_dim up to 128: what serves where there is no
// library. FlashAttention-2's division of work (arXiv 2307.08691, section 3): a block has 128 query rows and walks the
// KV rows 64 at a time, a warp has 32 of the query rows. A query row is a (token, head of the group) pair, so the heads
// that share a KV head share its loads.
#include <cmath>

#include "kernels/base/bytes.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/put_state.cuh"
#include "kernels/cuda/tiles.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kWarpTiles = 2;  // of 16 query rows
constexpr int kQueries = kWarps * kWarpTiles * 16, kKeys = 64;
constexpr float kLog2e = 1.4426950408889634f;

/// Rows of D elements in shared memory, 16 bytes a chunk; chunks change places so that eight rows' same chunk lies in
/// eight different banks' worth of memory.
template <int D>
__device__ std::uint32_t chunk_at(std::uint32_t tile, int row, int chunk) {
  return tile + static_cast<std::uint32_t>(row * (D / 8) + (chunk ^ (row & 7))) * 16;
}

/// Starts copying rows row(0) .. row(R - 1), null for zeros, d elements each and zeros up to D.
template <int D, int R, class Row>
__device__ void copy_rows(std::uint32_t tile, int d, const Row& row) {
#pragma unroll
  for (int item = threadIdx.x; item < R * (D / 8); item += kThreads) {
    const int r = item / (D / 8), c = item % (D / 8);
    const bf16* from = row(r);
    copy_async(chunk_at<D>(tile, r, c), from + c * 8, from != nullptr && c * 8 < d);
  }
  commit_async();
}

/// Over the 4 lanes that share a row.
template <class Op>
__device__ float reduce_row(float x, const Op& op) {
  x = op(x, __shfl_xor_sync(~0u, x, 1));
  return op(x, __shfl_xor_sync(~0u, x, 2));
}

template <int D>
__global__ void __launch_bounds__(kThreads, 2) attend_tensor_tiles(const __grid_constant__ AttendArgs a) {
  extern __shared__ uint4 shared[];
  const auto q_tile = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const std::uint32_t k_tile = q_tile + kQueries * D * 2, v_tile = k_tile + kKeys * D * 2;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = static_cast<int>(a.head_dim);
  const std::int64_t group = a.q_heads / a.kv_heads, query_rows = a.tokens * group, h = blockIdx.y;
  const std::int64_t first = std::int64_t{gridDim.x - 1 - blockIdx.x} * kQueries;  // the longest first
  const std::int64_t end = min(first + kQueries, query_rows);
  auto visible = [&](std::int64_t row) {
    return static_cast<int>(max(std::int64_t{0}, min(a.q_pos + row / group + 1 - a.kv.first, a.kv.rows)));
  };
  auto hidden = [&](std::int64_t row) {  // rows before the window
    if (a.window == 0) return 0;
    return static_cast<int>(max(std::int64_t{0}, a.q_pos + row / group + 1 - a.window - a.kv.first));
  };
  const int limit = visible(end - 1), start = hidden(first) / kKeys * kKeys;
  const bf16* rows = reinterpret_cast<const bf16*>(a.kv.data + h * a.kv.head_stride);
  auto copy_keys = [&](std::uint32_t tile, int k0, int part) {
    copy_rows<D, kKeys>(tile, d, [&](int r) -> const bf16* {
      return k0 + r < limit ? rows + std::int64_t{k0 + r} * 2 * d + part * d : nullptr;
    });
  };

  copy_rows<D, kQueries>(q_tile, d, [&](int r) -> const bf16* {
    const std::int64_t row = first + r;
    if (row >= end) return nullptr;
    return static_cast<const bf16*>(a.q) + row / group * a.q_stride + (h * group + row % group) * d;
  });
  copy_keys(k_tile, start, 0);

  float o[kWarpTiles][D / 8][4] = {}, m[kWarpTiles][2], l[kWarpTiles][2];
  int unseen[kWarpTiles][2], seen[kWarpTiles][2];  // the lane's query rows see the KV rows between
  const std::int64_t mine = first + warp * kWarpTiles * 16 + lane / 4;
#pragma unroll
  for (int t = 0; t < kWarpTiles; ++t)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::int64_t row = mine + t * 16 + i * 8;
      seen[t][i] = row < end ? visible(row) : 0;
      unseen[t][i] = row < end ? hidden(row) : 0;
      m[t][i] = -INFINITY;
      l[t][i] = 0;
    }
  const int all_see = visible(min(first + warp * kWarpTiles * 16, end - 1));
  const int from_all_see = hidden(min(first + (warp + 1) * kWarpTiles * 16, end) - 1);
  const float scale = a.scale * kLog2e;

  for (int k0 = start; k0 < limit; k0 += kKeys) {
    wait_async();
    __syncthreads();  // K is there, the last V has been read
    copy_keys(v_tile, k0, 1);
    float s[kWarpTiles][kKeys / 8][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      Matrices x[kWarpTiles];
#pragma unroll
      for (int t = 0; t < kWarpTiles; ++t)
        x[t] = load_matrices(chunk_at<D>(q_tile, (warp * kWarpTiles + t) * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        const auto y = load_matrices(chunk_at<D>(k_tile, n * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
#pragma unroll
        for (int t = 0; t < kWarpTiles; ++t) {
          mma_bf16(s[t][2 * n], x[t].v[0], x[t].v[1], x[t].v[2], x[t].v[3], y.v[0], y.v[1]);
          mma_bf16(s[t][2 * n + 1], x[t].v[0], x[t].v[1], x[t].v[2], x[t].v[3], y.v[2], y.v[3]);
        }
      }
    }

    if (k0 + kKeys > all_see || k0 < from_all_see)
#pragma unroll
      for (int t = 0; t < kWarpTiles; ++t)
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int k = k0 + n * 8 + lane % 4 * 2 + i % 2;
            if (k >= seen[t][i / 2] || k < unseen[t][i / 2]) s[t][n][i] = -INFINITY;
          }
    Matrices p[kWarpTiles][kKeys / 16];
#pragma unroll
    for (int t = 0; t < kWarpTiles; ++t)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float most = m[t][i];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) most = fmaxf(most, fmaxf(s[t][n][2 * i], s[t][n][2 * i + 1]));
        most = reduce_row(most, [](float x, float y) { return fmaxf(x, y); });
        const float origin = most == -INFINITY ? 0 : most * scale;
        const float keep = m[t][i] == -INFINITY ? 0 : exp2_fast((m[t][i] - most) * scale);  // 1 where it stays
        float sum = 0;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          const float u = exp2_fast(s[t][n][2 * i] * scale - origin),
                      w = exp2_fast(s[t][n][2 * i + 1] * scale - origin);
          p[t][n / 2].v[n % 2 * 2 + i] = pack_bf16(u, w);
          sum += u + w;
        }
        m[t][i] = most;
        l[t][i] = l[t][i] * keep + sum;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) o[t][n][2 * i] *= keep, o[t][n][2 * i + 1] *= keep;
      }

    wait_async();
    __syncthreads();  // V is there, K has been read
    if (k0 + kKeys < limit) copy_keys(k_tile, k0 + kKeys, 0);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k)
#pragma unroll
      for (int n = 0; n < D / 16; ++n) {
        const auto y = load_transposed(chunk_at<D>(v_tile, k * 16 + lane % 16, n * 2 + lane / 16));
#pragma unroll
        for (int t = 0; t < kWarpTiles; ++t) {
          mma_bf16(o[t][2 * n], p[t][k].v[0], p[t][k].v[1], p[t][k].v[2], p[t][k].v[3], y.v[0], y.v[1]);
          mma_bf16(o[t][2 * n + 1], p[t][k].v[0], p[t][k].v[1], p[t][k].v[2], p[t][k].v[3], y.v[2], y.v[3]);
        }
      }
  }
  wait_async();

#pragma unroll
  for (int t = 0; t < kWarpTiles; ++t)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::int64_t row = mine + t * 16 + i * 8;
      const float sum = reduce_row(l[t][i], [](float x, float y) { return x + y; });
      if (row >= end) continue;
      const std::int64_t state = row / group * a.q_heads + h * group + row % group;
      if (lane % 4 == 0) put_state(a.state, state, m[t][i] * a.scale, sum);
      const float share = sum == 0 ? 0 : 1 / sum;
      auto* out = static_cast<std::uint32_t*>(a.out) + (state * d + lane % 4 * 2) / 2;
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
        if (n * 8 < d) out[n * 4] = pack_bf16(o[t][n][2 * i] * share, o[t][n][2 * i + 1] * share);
    }
}

}  // namespace

void attend_bf16(const AttendArgs& a, cudaStream_t stream) {
  const std::int64_t query_rows = a.tokens * (a.q_heads / a.kv_heads);
  auto launch = [&]<int D>(std::integral_constant<int, D>) {
    Launch{.grid = {static_cast<unsigned>(ceil_div(query_rows, kQueries)), static_cast<unsigned>(a.kv_heads)},
           .block = kThreads,
           .shared_bytes = (kQueries + 2 * kKeys) * D * 2,
           .stream = stream}(attend_tensor_tiles<D>, a);
  };
  if (a.head_dim <= 64) launch(std::integral_constant<int, 64>{});
  else launch(std::integral_constant<int, 128>{});
}

}  // namespace longhaul::cuda
