// attend for a decode step: a block per (token, KV head) streams the rows once for all query heads of the group. Lanes
// share a row, 8 elements each; every such subgroup keeps its own partial attention, added up at the end in a fixed
// order.
#include <cmath>

#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

/// The attention of one query head over some rows; a lane holds 8 elements of o.
struct Partial {
  float m = -INFINITY, l = 0;
  Pack<float, 8> o = {};

  __device__ void add(float their_m, float their_l, const Pack<float, 8>& their_o) {
    const float to = fmaxf(m, their_m), keep = decay(m, to), take = decay(their_m, to);
    m = to;
    l = l * keep + their_l * take;
#pragma unroll
    for (int j = 0; j < 8; ++j) o.v[j] = o.v[j] * keep + their_o.v[j] * take;
  }
};

/// L lanes share a row (head_dim <= 8 * L); a block serves up to G heads of the group.
template <class T, int L, int G>
__global__ void __launch_bounds__(kThreads) attend_rows(const __grid_constant__ AttendArgs a) {
  constexpr int kRows = kThreads / L;                // rows at once
  constexpr int kInFlight = sizeof(T) == 2 ? 4 : 2;  // rows that a subgroup loads before it uses the first
  const int d = static_cast<int>(a.head_dim), group = static_cast<int>(a.q_heads / a.kv_heads);
  const int lane = threadIdx.x % L, sub = threadIdx.x / L, column = lane * 8;
  const bool active = column < d;
  const std::int64_t t = blockIdx.x, first_head = blockIdx.y * group + blockIdx.z * G;
  const int heads = min(G, group - static_cast<int>(blockIdx.z) * G);
  const std::int64_t seen = a.q_pos + t + 1 - a.kv.first, rows = seen < a.kv.rows ? seen : a.kv.rows;

  Pack<float, 8> q[G];
  Partial state[G];
#pragma unroll
  for (int g = 0; g < G; ++g) {
    q[g] = {};
    if (g < heads && active)
      q[g] = load<8>(static_cast<const T*>(a.q) + t * a.q_stride + (first_head + g) * d + column);
#pragma unroll
    for (int j = 0; j < 8; ++j) q[g].v[j] *= a.scale;
  }

  const T* tile = reinterpret_cast<const T*>(a.kv.data + blockIdx.y * a.kv.head_stride) + column;
  for (std::int64_t base = 0; base < rows; base += kRows * kInFlight) {  // the same trips for all lanes: they shuffle
    Pack<T, 8> k[kInFlight] = {}, v[kInFlight] = {};
#pragma unroll
    for (int r = 0; r < kInFlight; ++r) {
      const std::int64_t row = base + r * kRows + sub;
      if (row < rows && active) {
        k[r] = load_raw<8>(tile + row * 2 * d);
        v[r] = load_raw<8>(tile + row * 2 * d + d);
      }
    }
    float score[kInFlight][G];
#pragma unroll
    for (int r = 0; r < kInFlight; ++r) {
      const auto key = widen(k[r]);
      const bool visible = base + r * kRows + sub < rows;
#pragma unroll
      for (int g = 0; g < G; ++g) {
        float s = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) s += q[g].v[j] * key.v[j];
#pragma unroll
        for (int offset = L / 2; offset > 0; offset /= 2) s += __shfl_xor_sync(~0u, s, offset);
        score[r][g] = visible ? s : -INFINITY;
      }
    }
#pragma unroll
    for (int g = 0; g < G; ++g) {
      Partial& p = state[g];
      float m = p.m;
#pragma unroll
      for (int r = 0; r < kInFlight; ++r) m = fmaxf(m, score[r][g]);
      const float keep = decay(p.m, m);
      p.m = m;
      p.l *= keep;
#pragma unroll
      for (int j = 0; j < 8; ++j) p.o.v[j] *= keep;
    }
#pragma unroll
    for (int r = 0; r < kInFlight; ++r) {
      const auto value = widen(v[r]);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        Partial& p = state[g];
        const float w = score[r][g] == -INFINITY ? 0.0f : expf(score[r][g] - p.m);
        p.l += w;
#pragma unroll
        for (int j = 0; j < 8; ++j) p.o.v[j] += w * value.v[j];
      }
    }
  }

  // Subgroups of a warp, then warps.
#pragma unroll
  for (int g = 0; g < G; ++g)
#pragma unroll
    for (int offset = L; offset < 32; offset *= 2) {
      Partial& p = state[g];
      Pack<float, 8> o;
#pragma unroll
      for (int j = 0; j < 8; ++j) o.v[j] = __shfl_xor_sync(~0u, p.o.v[j], offset);
      const float m = __shfl_xor_sync(~0u, p.m, offset), l = __shfl_xor_sync(~0u, p.l, offset);
      p.add(m, l, o);
    }
  __shared__ float warp_m[kWarps][G], warp_l[kWarps][G];
  __shared__ alignas(16) float warp_o[kWarps][8 * L];
  const int warp = threadIdx.x / 32, in_warp = threadIdx.x % 32;
#pragma unroll
  for (int g = 0; g < G; ++g) {
    if (g >= heads) break;
    const int c = threadIdx.x;
    const std::int64_t i = t * a.q_heads + first_head + g;
    __syncthreads();  // the head before has been read
    if (in_warp < L) store<8>(&warp_o[warp][column], state[g].o);
    if (in_warp == 0) warp_m[warp][g] = state[g].m, warp_l[warp][g] = state[g].l;
    __syncthreads();
    if (c >= d) continue;
    float to = -INFINITY, l = 0, o = 0;
    for (int w = 0; w < kWarps; ++w) to = fmaxf(to, warp_m[w][g]);
    for (int w = 0; w < kWarps; ++w) {
      const float take = decay(warp_m[w][g], to);
      o += warp_o[w][c] * take;
      l += warp_l[w][g] * take;
    }
    a.state.o[i * d + c] = o;
    if (c == 0) a.state.m[i] = to, a.state.l[i] = l;
  }
}

}  // namespace

void attend_few(const AttendArgs& a, cudaStream_t stream) {
  const std::int64_t group = a.q_heads / a.kv_heads;
  auto launch = [&]<int L, int G>(std::integral_constant<int, L>, std::integral_constant<int, G>) {
    with_type(a.act, [&]<class T>(T) {
      Launch{.grid = {static_cast<unsigned>(a.tokens), static_cast<unsigned>(a.kv_heads),
                      static_cast<unsigned>(ceil_div(group, G))},
             .block = kThreads,
             .stream = stream}(attend_rows<T, L, G>, a);
    });
  };
  auto with_heads = [&](auto lanes) {
    if (group == 1) launch(lanes, std::integral_constant<int, 1>{});
    else if (group <= 4) launch(lanes, std::integral_constant<int, 4>{});
    else launch(lanes, std::integral_constant<int, 8>{});
  };
  if (a.head_dim <= 64) with_heads(std::integral_constant<int, 8>{});
  else if (a.head_dim <= 128) with_heads(std::integral_constant<int, 16>{});
  else with_heads(std::integral_constant<int, 32>{});
}

}  // namespace longhaul::cuda
