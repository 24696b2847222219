// Attention with float32 queries over rows of any head_dim, in plain products: lanes share a row, 8 elements each, and
// every such subgroup keeps its own partial attention, added up in a fixed order.
#pragma once
#include "kernels/cuda/attend_parts.cuh"
#include "kernels/cuda/row_codes.cuh"

namespace longhaul::cuda {

inline constexpr int kF32Heads = 4;
inline constexpr int kF32Blocks = 2;  // of a multiprocessor

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

/// L lanes share a row: head_dim <= 8 * L.
template <RowType type, int L, class Source>
__global__ void __launch_bounds__(kAttendThreads, kF32Blocks)
    attend_rows_f32(const __grid_constant__ AttendPartsArgs<Source> a) {
  using Reader = RowReader<type, float>;
  constexpr int kRows = kAttendThreads / L;  // rows at once
  constexpr int kInFlight = 2;               // rows that a subgroup loads before it uses the first
  __shared__ WarpStates<kF32Heads, 8 * L> shared;
  const int d = a.head_dim, lane = threadIdx.x % L, sub = threadIdx.x / L, column = lane * 8;
  const bool active = column < d;
  const Heads heads = heads_of_block(a.group, kF32Heads);

  wait_for_previous();
  let_next_start();
  Deal(a.counts, static_cast<int>(gridDim.x)).for_each_part([&](int segment, int begin, int end, int part) {
    const auto rows = a.source.of(segment);
    const int token = segment / a.counts.kv_heads;
    const std::int64_t head = static_cast<std::int64_t>(segment % a.counts.kv_heads) * a.group + heads.first;

    Partial state[kF32Heads];
    for_each_form(a, token, rows, begin, end, [&](int form, int begin, int end) {
      const float* from = a.template query<float>(token, segment % a.counts.kv_heads, form) + heads.first * d + column;
      Pack<float, 8> q[kF32Heads] = {};
#pragma unroll
      for (int g = 0; g < kF32Heads; ++g) {
        if (g < heads.count && active) q[g] = load<8>(from + g * d);
#pragma unroll
        for (int j = 0; j < 8; ++j) q[g].v[j] *= a.scale;
      }

      for (int base = begin; base < end; base += kRows * kInFlight) {  // the same trips for all lanes: they shuffle
        typename Reader::Raw k[kInFlight] = {}, v[kInFlight] = {};
        bool there[kInFlight];
#pragma unroll
        for (int r = 0; r < kInFlight; ++r) {
          const int row = base + r * kRows + sub;
          const std::byte* at = row < end ? rows.at(rows.place(row)) : nullptr;
          there[r] = at != nullptr;
          if (there[r] && active) {
            k[r] = Reader::load(at, d, column);
            v[r] = Reader::load(at, d, d + column);
          }
        }
        float score[kInFlight][kF32Heads];
#pragma unroll
        for (int r = 0; r < kInFlight; ++r) {
          const auto key = Reader::values(k[r]);
#pragma unroll
          for (int g = 0; g < kF32Heads; ++g) {
            float s = 0;
#pragma unroll
            for (int j = 0; j < 8; ++j) s += q[g].v[j] * key.v[j];
#pragma unroll
            for (int offset = L / 2; offset > 0; offset /= 2) s += __shfl_xor_sync(~0u, s, offset);
            if (a.scores != nullptr && there[r] && lane == 0 && g < heads.count)
              a.scores[(static_cast<std::int64_t>(token) * a.counts.kv_heads * a.group + head + g) * a.score_stride +
                       base + r * kRows + sub] = s;
            score[r][g] = there[r] ? s : -INFINITY;
          }
        }
#pragma unroll
        for (int g = 0; g < kF32Heads; ++g) {
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
          const auto value = Reader::values(v[r]);
#pragma unroll
          for (int g = 0; g < kF32Heads; ++g) {
            Partial& p = state[g];
            const float w = score[r][g] == -INFINITY ? 0.0f : expf(score[r][g] - p.m);
            p.l += w;
#pragma unroll
            for (int j = 0; j < 8; ++j) p.o.v[j] += w * value.v[j];
          }
        }
      }
    });

    const int warp = threadIdx.x / 32, in_warp = threadIdx.x % 32;
#pragma unroll
    for (int g = 0; g < kF32Heads; ++g) {
      Partial& p = state[g];
#pragma unroll
      for (int offset = L; offset < 32; offset *= 2) {  // the subgroups of a warp
        Pack<float, 8> o;
#pragma unroll
        for (int j = 0; j < 8; ++j) o.v[j] = __shfl_xor_sync(~0u, p.o.v[j], offset);
        const float m = __shfl_xor_sync(~0u, p.m, offset), l = __shfl_xor_sync(~0u, p.l, offset);
        p.add(m, l, o);
      }
      if (in_warp < L) store<8>(&shared.o[warp][g][column], p.o);
      if (in_warp == 0) shared.m[warp][g] = p.m, shared.l[warp][g] = p.l;
    }
    shared.write_sum(a.parts, static_cast<std::int64_t>(part) * a.group + heads.first, heads.count, d);
  });
}

}  // namespace longhaul::cuda
