// Attention of up to 8 query heads by tensor cores, 16 or 32 rows a warp and step (8 KiB in bf16): S^T = K Q^T, then
// O^T += V^T P^T with rows as the inner dimension. A warp loads K and V straight into the operands' registers, 16 bytes
// an access: which element stands for which index of an inner dimension, or for which row of a result, is free as long
// as both sides agree. Rows of fewer bits are loaded as their codes, 8 bytes or 4 an access, and become bf16 in
// registers where they are used. Weights enter as the sum of two bf16, so that they carry 16 bits.
#pragma once
#include <cfloat>

#include "kernels/cuda/attend_parts.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/row_codes.cuh"

namespace longhaul::cuda {

inline constexpr int kMmaHeads = 8;
/// Blocks of a multiprocessor: bytes enough in flight for the memory's latency.
constexpr int mma_blocks(int D) { return D <= 128 ? 3 : 2; }
/// Those that there are registers for. One more, where that costs no spills: then the kernel that adds up the parts can
/// start beside them.
constexpr int mma_fitting(int D) { return D <= 128 ? 4 : 2; }

template <class T>
__device__ T shuffle_pointer(T pointer, int lane) {
  return reinterpret_cast<T>(__shfl_sync(~0u, reinterpret_cast<unsigned long long>(pointer), lane));
}

__device__ inline std::uint32_t word(const uint4& x, int i) { return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w; }

/// head_dim is D where `Exact`, else at most D: what is past its end is zero in the operands.
template <RowType type, int D, bool Exact, class Source>
__global__ void __launch_bounds__(kAttendThreads, mma_fitting(D))
    attend_rows_mma(const __grid_constant__ AttendPartsArgs<Source> a) {
  using Reader = RowReader<type, bf16>;
  using Raw = typename Reader::Raw;
  constexpr int kKeyLoads = D / 32;               // loads of a lane from a row's K, 8 values each: 4 lanes share a row
  constexpr int kValueLoads = D / 64;             // and from its V: 8 lanes do
  constexpr int kTiles = D <= 128 ? 128 / D : 1;  // of 16 rows, an operand's
  constexpr int kStep = 16 * kTiles;              // rows that a warp takes at once
  constexpr float kLog2e = 1.44269504f;
  constexpr int kColumns = D < 128 ? D : 128;  // that the warps add up at once
  __shared__ WarpStates<kMmaHeads, kColumns> shared;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, i = lane / 4, c = lane % 4;
  const Heads heads = heads_of_block(a.group, kMmaHeads);
  const int d = Exact ? D : a.head_dim;
  auto load = [&](const std::byte* row, int part, int column) {
    return Exact || column < d ? Reader::load(row, d, part + column) : Raw{};
  };
  const float scale2 = a.scale * kLog2e;

  wait_for_previous();
  let_next_start();
  Deal(a.counts, static_cast<int>(gridDim.x)).for_each_part([&](int segment, int begin, int end, int part) {
    const auto rows = a.source.of(segment);
    const int token = segment / a.counts.kv_heads;
    const std::int64_t head = static_cast<std::int64_t>(segment % a.counts.kv_heads) * a.group + heads.first;

    float o[D / 16][4] = {};  // [x][2 * y + z]: element x / 4 * 64 + 8 * i + x % 4 * 2 + y of head 2c + z
    float m[2] = {-FLT_MAX, -FLT_MAX}, l[2] = {};  // of heads 2c and 2c + 1, before scaling; l: of this lane's rows

    for_each_form(a, token, rows, begin, end, [&](int form, int begin, int end) {
      uint4 q[kKeyLoads] = {};  // of head i
      if (i < heads.count) {
        const bf16* from =
            a.template query<bf16>(token, segment % a.counts.kv_heads, form) + (heads.first + i) * d + c * 8;
#pragma unroll
        for (int j = 0; j < kKeyLoads; ++j)
          if (Exact || j * 32 + c * 8 < d) q[j] = *reinterpret_cast<const uint4*>(from + j * 32);
      }

      // Row `first + lane % kStep` is looked up by this lane, one step ahead.
      int first = begin + warp * kStep, row = first + lane % kStep;
      std::int32_t place = row < end ? rows.place(row) : -1;
      for (; first < end; first += kAttendWarps * kStep) {
        const std::byte* at = place < 0 ? nullptr : rows.at(place);
        const unsigned attended = __ballot_sync(~0u, at != nullptr);
        row += kAttendWarps * kStep;
        place = row < end ? rows.place(row) : -1;
        if (attended == 0) continue;
        const std::byte* one = shuffle_pointer(at, __ffs(static_cast<int>(attended)) - 1);
        if (at == nullptr) at = one;  // some row that is loaded anyway stands for those that are not attended

        Raw k[kTiles][2][kKeyLoads], v[kTiles][4][kValueLoads];  // K of rows i, i + 8; V of 2c, 2c + 1, 2c + 8, 2c + 9
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const std::byte* from = shuffle_pointer(at, tile * 16 + i + r * 8);
#pragma unroll
            for (int j = 0; j < kKeyLoads; ++j) k[tile][r][j] = load(from, 0, j * 32 + c * 8);
          }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            const std::byte* from = shuffle_pointer(at, tile * 16 + c * 2 + r % 2 + r / 2 * 8);
#pragma unroll
            for (int j = 0; j < kValueLoads; ++j) v[tile][r][j] = load(from, d, j * 64 + i * 8);
          }

        float s[kTiles][4] = {}, most[2] = {-INFINITY, -INFINITY};  // s[tile][2 * y + z]: row i + 8 * y by head 2c + z
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          float t[4] = {};  // a second chain
#pragma unroll
          for (int j = 0; j < kKeyLoads; ++j) {
            const uint4 &x = Reader::halves(k[tile][0][j]), &y = Reader::halves(k[tile][1][j]);
            mma_bf16(s[tile], x.x, y.x, x.y, y.y, q[j].x, q[j].y);
            mma_bf16(t, x.z, y.z, x.w, y.w, q[j].z, q[j].w);
          }
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int y = e / 2, z = e % 2, r = tile * 16 + i + 8 * y;
            const bool there = attended >> r & 1;
            s[tile][e] += t[e];
            if (a.scores != nullptr && there && 2 * c + z < heads.count)
              a.scores[(static_cast<std::int64_t>(token) * a.counts.kv_heads * a.group + head + 2 * c + z) *
                           a.score_stride +
                       first + r] = s[tile][e] * a.scale;
            if (!there) s[tile][e] = -INFINITY;
            most[z] = fmaxf(most[z], s[tile][e]);
          }
        }

        if (__any_sync(~0u, most[0] > m[0] || most[1] > m[1])) {  // seldom, once the first rows have been seen
#pragma unroll
          for (int z = 0; z < 2; ++z) {
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2)
              most[z] = fmaxf(most[z], __shfl_xor_sync(~0u, most[z], offset));
            most[z] = fmaxf(most[z], m[z]);
            const float keep = exp2_fast((m[z] - most[z]) * scale2);
            m[z] = most[z];
            l[z] *= keep;
#pragma unroll
            for (int x = 0; x < D / 16; ++x) o[x][z] *= keep, o[x][2 + z] *= keep;
          }
        }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          float(&w)[4] = s[tile];
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            w[e] = exp2_fast((w[e] - m[e % 2]) * scale2);
            l[e % 2] += w[e];
          }
          std::uint32_t p[2][2];  // [high or low bits][y], columns now heads
#pragma unroll
          for (int y = 0; y < 2; ++y) {
            const std::uint32_t high = pack_bf16(w[2 * y], w[2 * y + 1]);
            p[0][y] = transpose8(high);
            p[1][y] = transpose8(pack_bf16(w[2 * y] - low_bf16(high), w[2 * y + 1] - high_bf16(high)));
          }
#pragma unroll
          for (int j = 0; j < kValueLoads; ++j) {
            const uint4 &v0 = Reader::halves(v[tile][0][j]), &v1 = Reader::halves(v[tile][1][j]);
            const uint4 &v8 = Reader::halves(v[tile][2][j]), &v9 = Reader::halves(v[tile][3][j]);
#pragma unroll
            for (int y = 0; y < 4; ++y) {
              auto& to = o[j * 4 + y];
              const std::uint32_t a0 = __byte_perm(word(v0, y), word(v1, y), 0x5410);
              const std::uint32_t a1 = __byte_perm(word(v0, y), word(v1, y), 0x7632);
              const std::uint32_t a2 = __byte_perm(word(v8, y), word(v9, y), 0x5410);
              const std::uint32_t a3 = __byte_perm(word(v8, y), word(v9, y), 0x7632);
              mma_bf16(to, a0, a1, a2, a3, p[0][0], p[0][1]);
              mma_bf16(to, a0, a1, a2, a3, p[1][0], p[1][1]);
            }
          }
        }
      }
    });

#pragma unroll
    for (int z = 0; z < 2; ++z) {
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) l[z] += __shfl_xor_sync(~0u, l[z], offset);
      if (i == 0) {
        shared.m[warp][2 * c + z] = m[z] == -FLT_MAX ? -INFINITY : m[z] * a.scale;
        shared.l[warp][2 * c + z] = l[z];
      }
    }
    const std::int64_t state = static_cast<std::int64_t>(part) * a.group + heads.first;
#pragma unroll
    for (int column = 0; column < D; column += kColumns) {
#pragma unroll
      for (int z = 0; z < 2; ++z)
#pragma unroll
        for (int j = 0; j < kColumns / 64; ++j) {
          float* to = &shared.o[warp][2 * c + z][j * 64 + i * 8];
          const auto& x = o + column / 16 + j * 4;
          *reinterpret_cast<float4*>(to) = {x[0][z], x[0][2 + z], x[1][z], x[1][2 + z]};
          *reinterpret_cast<float4*>(to + 4) = {x[2][z], x[2][2 + z], x[3][z], x[3][2 + z]};
        }
      shared.write_sum(a.parts, state, heads.count, d, column);
    }
  });
}

}  // namespace longhaul::cuda
