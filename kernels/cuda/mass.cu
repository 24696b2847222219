// add_list_mass, add_mass: the attention that each row has received.
#include <cmath>

#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/forms.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;

/// The first entry of the ascending list that is not below `row`.
__device__ int lower_bound(const std::int32_t* list, int count, int row) {
  int begin = 0;
  while (begin < count) {
    const int middle = (begin + count) / 2;
    if (list[middle] < row) begin = middle + 1;
    else count = middle;
  }
  return begin;
}

/// A thread per row of a span (z) and KV head (y).
__global__ void __launch_bounds__(kThreads) add_listed(const __grid_constant__ AddListMassArgs a) {
  const std::int64_t h = blockIdx.y, t = blockIdx.z, group = a.q_heads / a.kv_heads;
  const StepSpan span = a.batch.spans[t];
  const int row = static_cast<int>(blockIdx.x * kThreads + threadIdx.x), count = a.rows.count[t * a.kv_heads + h];
  if (row >= span.rows) return;
  const std::int32_t* list = a.rows.rows + (t * a.kv_heads + h) * a.rows.stride;
  float* mass = a.mass + span.slot * a.mass_session_stride + h * a.mass_stride + row;
  const int i = lower_bound(list, count, row);
  if (i == count || list[i] != row) {
    *mass = -INFINITY;
    return;
  }
  float sum = 0;
  for (std::int64_t head = t * a.q_heads + h * group; head < t * a.q_heads + (h + 1) * group; ++head)
    sum += expf(a.scores[head * a.rows.stride + i] - a.state.m[head]) / a.state.l[head];
  *mass += sum;
}

constexpr int kTile = 64;           // KV rows, and queries at a time; a thread has 4 x 4 scores
constexpr int kDepth = 64;          // of head_dim at a time
constexpr int kWidth = kDepth + 4;  // keeps 16-byte reads of 8 neighbouring rows in different banks

/// Columns [c0, c0 + kDepth) of rows row(0) .. row(63), null for zeros, into float shared memory.
template <class T, class Row>
__device__ void load_rows(float* tile, int c0, int d, const Row& row) {
  for (int item = threadIdx.x; item < kTile * (kDepth / 8); item += kThreads) {
    const int r = item / (kDepth / 8), c = item % (kDepth / 8) * 8;
    const T* from = row(r);
    store<8>(tile + r * kWidth + c, from != nullptr && c0 + c < d ? load<8>(from + c0 + c) : Pack<float, 8>{});
  }
}

/// 64 rows of one KV head, to which no one else adds: their scores with all queries that see them, a query being a
/// (token, head of the group) pair. The rows are of one chunk, the queries of any.
template <class T>
__global__ void __launch_bounds__(kThreads) add_columns(const __grid_constant__ AddMassArgs a) {
  __shared__ alignas(16) float k[kTile * kWidth], q[kTile * kWidth];
  __shared__ float parts[16][kTile];
  const int d = static_cast<int>(a.head_dim), tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const std::int64_t group = a.q_heads / a.kv_heads, h = blockIdx.y, k0 = std::int64_t{blockIdx.x} * kTile;
  const T* rows = reinterpret_cast<const T*>(a.kv.data + h * a.kv.head_stride);
  float sums[4] = {};
  const std::int64_t first_token = max(std::int64_t{0}, a.kv.first + k0 - a.q_pos), queries = a.tokens * group;
  for (std::int64_t q0 = first_token * group / kTile * kTile; q0 < queries; q0 += kTile) {
    float s[4][4] = {};  // queries ty * 4 + i, rows tx + 16 * j
    for (int c0 = 0; c0 < d; c0 += kDepth) {
      __syncthreads();  // the tiles before have been read
      load_rows<T>(k, c0, d, [&](int r) { return k0 + r < a.kv.rows ? rows + (k0 + r) * 2 * d : nullptr; });
      load_rows<T>(q, c0, d, [&](int r) -> const T* {
        const std::int64_t token = (q0 + r) / group;
        if (q0 + r >= queries) return nullptr;
        const int form =
            form_borders(a.forms, static_cast<int>(a.q_pos + token)).form_of(static_cast<int>(a.kv.first + k0));
        return query_of<T>(a.q, a.q_stride, a.forms, a.q_heads * d, token, form) + (h * group + (q0 + r) % group) * d;
      });
      __syncthreads();
#pragma unroll 2
      for (int c = 0; c < kDepth; c += 4) {
        Pack<float, 4> x[4], y[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = load<4>(q + (ty * 4 + i) * kWidth + c);
#pragma unroll
        for (int j = 0; j < 4; ++j) y[j] = load<4>(k + (tx + 16 * j) * kWidth + c);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) s[i][j] += x[i].v[e] * y[j].v[e];
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::int64_t query = q0 + ty * 4 + i, token = query / group;
      if (query >= queries) continue;
      const std::int64_t state = token * a.q_heads + h * group + query % group;
      const float m = a.state.m[state], l = a.state.l[state];
      if (!(l > 0)) continue;  // an empty state
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (a.kv.first + k0 + tx + 16 * j <= a.q_pos + token) sums[j] += expf(s[i][j] * a.scale - m) / l;
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) parts[ty][tx + 16 * j] = sums[j];
  __syncthreads();
  const std::int64_t row = k0 + threadIdx.x;
  if (threadIdx.x >= kTile || row >= a.kv.rows) return;
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += parts[i][threadIdx.x];
  a.mass[h * a.mass_stride + a.kv.first + row] += sum;
}

}  // namespace

void add_list_mass(const AddListMassArgs& a, cudaStream_t stream) {
  if (a.batch.count == 0 || a.batch.capacity == 0) return;
  Launch{.grid = {static_cast<unsigned>(ceil_div(a.batch.capacity, kThreads)), static_cast<unsigned>(a.kv_heads),
                  static_cast<unsigned>(a.batch.count)},
         .block = kThreads,
         .stream = stream}(add_listed, a);
}

void add_mass(const AddMassArgs& a, cudaStream_t stream) {
  if (a.tokens == 0 || a.kv.rows == 0) return;
  with_type(a.act, [&]<class T>(T) {
    Launch{.grid = {static_cast<unsigned>(ceil_div(a.kv.rows, kTile)), static_cast<unsigned>(a.kv_heads)},
           .block = kThreads,
           .stream = stream}(add_columns<T>, a);
  });
}

}  // namespace longhaul::cuda
