// Codes of 4 bits times weights that are cut into signed bytes, on the tensor cores and in integers. Device code only.
#pragma once
#include "kernels/cuda/select.cuh"

namespace longhaul::cuda::labels {

constexpr int kBlockRows = kAttendBlock, kUnitBlocks = 4, kUnitRows = kUnitBlocks * kBlockRows;
constexpr int kGroupUnits = 4;  // units whose sums are joined before others see them; a block has whole groups
constexpr int kSlots = 3;       // units in a warp's ring
constexpr int kHeads = 2;       // KV heads that a block has weights and counts of at once
constexpr int kSlices = 4;      // bytes of a weight
constexpr int kTiles = kSlices / 2;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding a small integer to its bits adds it
constexpr float kEmpty = -1e30f;       // the maximum of no scores

template <int K, int Quads>
struct alignas(16) Shared {
  static constexpr int kWarps = 16 / K, kDims = 32 * K, kQueries = 4 * Quads;
  union {
    std::uint32_t counts[kHeads][kDigitBins];
    float q[kHeads][kQueries][256];
  };
  float weights[kHeads][kQueries][kDims];
  std::uint32_t slices[kHeads][kQueries][kDims];  // a byte each, the highest in the highest
  float factor[kHeads][kQueries];                 // from a sum to a score; in base 2 where there is a softmax
  float log_sum[kHeads][kQueries];
  FillBarrier filled[kWarps][kSlots];
  Competition places[kDecodeTokens];
  int slots[kDecodeTokens];            // of the sessions
  int first_group[kDecodeTokens + 1];  // of each place
};

struct Unit {
  int place, head, index;  // index: of the head's units
};

/// One KV head's weights as a warp's operand B, and what its lane's query heads need.
template <int K, int Quads>
struct Weights {
  std::uint32_t b[Quads][kTiles][K][2];
  float factor[Quads][2];  // of rows in the low halves of bytes, and in the high
  float log_sum[Quads];
};

/// d = c + a * b of whole numbers.
__device__ inline void multiply(int (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                const int (&c)[4]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

/// Four 8 x 8 tiles of 16-bit elements, transposed: lane 4 i + j gets of tile t the elements (2 j, i) and (2 j + 1, i).
__device__ inline void load_tiles(std::uint32_t (&r)[4], const void* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(at))
               : "memory");
}

/// The sums of a block's rows for the lane's query head of each quad. Lane 4 i + j has head j and the rows
/// 2 i + (v & 1) + 16 (v >> 2) + 32 (v >> 1 & 1) for v = 0 .. 7; those with v & 2 are 16 times what they stand for.
template <int K, int Quads>
__device__ inline void sum_block(const std::byte* codes, const Weights<K, Quads>& w, float (&sum)[Quads][8]) {
  const int lane = threadIdx.x % 32, magic = __float_as_int(kMagic);
#pragma unroll
  for (int half = 0; half < 2; ++half) {                 // bytes 16 half .. 16 half + 15 of a dimension
    int low[Quads][kTiles][4], whole[Quads][kTiles][4];  // of the low halves of bytes, and of bytes
#pragma unroll
    for (int n = 0; n < Quads; ++n)
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) low[n][t][i] = whole[n][t][i] = magic;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      std::uint32_t r[4];
      load_tiles(r, codes + (k * 32 + lane) * 32 + half * 16);
      // Bytes of four dimensions of one row together; even bytes, then odd ones.
      const std::uint32_t both[4] = {__byte_perm(r[0], r[1], 0x6420), __byte_perm(r[0], r[1], 0x7531),
                                     __byte_perm(r[2], r[3], 0x6420), __byte_perm(r[2], r[3], 0x7531)};
      const std::uint32_t some[4] = {both[0] & 0x0f0f0f0fu, both[1] & 0x0f0f0f0fu, both[2] & 0x0f0f0f0fu,
                                     both[3] & 0x0f0f0f0fu};
#pragma unroll
      for (int n = 0; n < Quads; ++n)
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          multiply(low[n][t], some, w.b[n][t][k], low[n][t]);
          multiply(whole[n][t], both, w.b[n][t][k], whole[n][t]);
        }
    }
#pragma unroll
    for (int n = 0; n < Quads; ++n)
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        float& of_low = sum[n][half * 4 + odd];
        float& of_high = sum[n][half * 4 + 2 + odd];
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          const float x = __int_as_float(low[n][t][2 * odd]), y = __int_as_float(low[n][t][2 * odd + 1]);
          const float l = fmaf(x - kMagic, 256.0f, y - kMagic);
          const float h =
              fmaf(__int_as_float(whole[n][t][2 * odd]) - x, 256.0f, __int_as_float(whole[n][t][2 * odd + 1]) - y);
          of_low = t == 0 ? l : fmaf(of_low, 65536.0f, l);
          of_high = t == 0 ? h : fmaf(of_high, 65536.0f, h);
        }
      }
  }
}

}  // namespace longhaul::cuda::labels
