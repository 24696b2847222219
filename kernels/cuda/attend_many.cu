// attend where no library serves: tiles of 64 query rows by 64 KV rows in plain float32 products, for both types and
// any head_dim. A query row is a (token, head of the group) pair, so the heads that share a KV head share its loads.
#include <cmath>

#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/put_state.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;  // 16 x 16; a thread has 4 rows of every product
constexpr int kRows = 64;      // query rows, and KV rows, of a tile
constexpr int kPad = 4;        // keeps 16-byte reads of 8 neighbouring rows in different banks
constexpr int kScores = kRows + kPad;

constexpr std::size_t shared_bytes(int D) { return (2 * kRows * (D + kPad) + kRows * kScores) * sizeof(float); }

/// Rows row(0) .. row(63), null for zeros, into float shared memory, D wide of which d are there.
template <class T, int D, class Row>
__device__ void load_tile(float* tile, int d, float scale, const Row& row) {
  for (int item = threadIdx.x; item < kRows * (D / 8); item += kThreads) {
    const int r = item / (D / 8), c = item % (D / 8) * 8;
    const T* from = row(r);
    Pack<float, 8> x = {};
    if (from != nullptr && c < d) x = load<8>(from + c);
#pragma unroll
    for (int j = 0; j < 8; ++j) x.v[j] *= scale;
    store<8>(tile + r * (D + kPad) + c, x);
  }
}

/// Over the 16 threads that share rows.
template <class Op>
__device__ float reduce_row(float x, const Op& op) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) x = op(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads, D <= 128 ? 2 : 1) attend_tiles(const __grid_constant__ AttendArgs a) {
  constexpr int kWidth = D + kPad, kColumns = D / 64;  // of a thread: 4 neighbours in each 64
  extern __shared__ float4 shared[];
  float* q = reinterpret_cast<float*>(shared);
  float* kv = q + kRows * kWidth;
  float* p = kv + kRows * kWidth;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, d = static_cast<int>(a.head_dim);
  const std::int64_t group = a.q_heads / a.kv_heads, query_rows = a.tokens * group, h = blockIdx.y;
  const std::int64_t first = std::int64_t{gridDim.x - 1 - blockIdx.x} * kRows;  // the longest first
  const std::int64_t last = min(first + kRows, query_rows) - 1;
  auto visible = [&](std::int64_t r) {
    return max(std::int64_t{0}, min(a.q_pos + r / group + 1 - a.kv.first, a.kv.rows));
  };
  auto hidden = [&](std::int64_t r) {  // rows before the window
    return a.window == 0 ? 0 : max(std::int64_t{0}, a.q_pos + r / group + 1 - a.window - a.kv.first);
  };
  const std::int64_t limit = visible(last);

  load_tile<T, D>(q, d, a.scale, [&](int r) -> const T* {
    const std::int64_t row = first + r;
    if (row > last) return nullptr;
    return static_cast<const T*>(a.q) + row / group * a.q_stride + (h * group + row % group) * d;
  });

  Pack<float, 4> o[4][kColumns] = {};
  float m[4], l[4];
  std::int64_t state[4], unseen[4], seen[4];  // index of the row's state (-1: no such row); KV rows [unseen, seen)
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::int64_t row = first + ty * 4 + i;
    const bool there = row <= last;
    state[i] = there ? row / group * a.q_heads + h * group + row % group : -1;
    seen[i] = there ? visible(row) : 0;
    unseen[i] = there ? hidden(row) : 0;
    m[i] = -INFINITY;
    l[i] = 0;
  }

  const T* rows = reinterpret_cast<const T*>(a.kv.data + h * a.kv.head_stride);
  for (std::int64_t k0 = hidden(first) / kRows * kRows; k0 < limit; k0 += kRows) {
    auto row = [&](int r) -> const T* { return k0 + r < limit ? rows + (k0 + r) * 2 * d : nullptr; };
    load_tile<T, D>(kv, d, 1, row);
    __syncthreads();
    float s[4][4] = {};  // rows ty * 4 + i, columns tx + 16 * j
#pragma unroll 4
    for (int c = 0; c < D; c += 4) {
      Pack<float, 4> x[4], y[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = load<4>(q + (ty * 4 + i) * kWidth + c);
#pragma unroll
      for (int j = 0; j < 4; ++j) y[j] = load<4>(kv + (tx + 16 * j) * kWidth + c);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) s[i][j] += x[i].v[e] * y[j].v[e];
    }
    __syncthreads();  // K has been read
    load_tile<T, D>(kv, d, 1, [&](int r) -> const T* { return row(r) == nullptr ? nullptr : row(r) + d; });
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float most = -INFINITY;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (k0 + tx + 16 * j >= seen[i] || k0 + tx + 16 * j < unseen[i]) s[i][j] = -INFINITY;
        most = fmaxf(most, s[i][j]);
      }
      most = fmaxf(m[i], reduce_row(most, [](float x, float y) { return fmaxf(x, y); }));
      const float keep = decay(m[i], most);
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float w = s[i][j] == -INFINITY ? 0.0f : expf(s[i][j] - most);
        p[(ty * 4 + i) * kScores + tx + 16 * j] = w;
        sum += w;
      }
      m[i] = most;
      l[i] = l[i] * keep + reduce_row(sum, [](float x, float y) { return x + y; });
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) o[i][j].v[e] *= keep;
    }
    __syncthreads();  // V and the weights are there
#pragma unroll 2
    for (int k = 0; k < kRows; k += 4) {
      Pack<float, 4> w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] = load<4>(p + (ty * 4 + i) * kScores + k);
#pragma unroll
      for (int e = 0; e < 4; ++e)
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const auto v = load<4>(kv + (k + e) * kWidth + j * 64 + tx * 4);
#pragma unroll
          for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int n = 0; n < 4; ++n) o[i][j].v[n] += w[i].v[e] * v.v[n];
        }
    }
    __syncthreads();  // V has been read
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (state[i] < 0) continue;
    if (tx == 0) put_state(a.state, state[i], m[i], l[i]);
    const float share = l[i] == 0 ? 0 : 1 / l[i];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const int c = j * 64 + tx * 4;
#pragma unroll
      for (int e = 0; e < 4; ++e) o[i][j].v[e] *= share;
      if (c < d) store<4>(static_cast<T*>(a.out) + state[i] * d + c, o[i][j]);
    }
  }
}

}  // namespace

void attend_many(const AttendArgs& a, cudaStream_t stream) {
  const std::int64_t query_rows = a.tokens * (a.q_heads / a.kv_heads);
  auto launch = [&]<int D>(std::integral_constant<int, D>) {
    with_type(a.act, [&]<class T>(T) {
      Launch{.grid = {static_cast<unsigned>(ceil_div(query_rows, kRows)), static_cast<unsigned>(a.kv_heads)},
             .block = kThreads,
             .shared_bytes = shared_bytes(D),
             .stream = stream}(attend_tiles<T, D>, a);
    });
  };
  if (a.head_dim <= 64) launch(std::integral_constant<int, 64>{});
  else if (a.head_dim <= 128) launch(std::integral_constant<int, 128>{});
  else launch(std::integral_constant<int, 256>{});
}

}  // namespace longhaul::cuda
