// Codes of 4 bits times weights, on the tensor cores and in integers: a weight is two signed bytes, and a sum of
// integers is the same in any order, so rows with the same codes have the same score wherever they are. (A product of
// half-precision numbers does not promise that: sums are cut at a place that depends on the other factors' exponents.)
// Device code only.
#pragma once
#include <cfloat>

#include "kernels/cuda/fill.cuh"
#include "kernels/cuda/select.cuh"

namespace longhaul::cuda::labels {

constexpr int kBlockRows = kAttendBlock;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kEmpty = -FLT_MAX;   // the maximum of no scores
constexpr int kWeightExponent = 15;  // of the largest weight, times the unit

/// Labels of up to 32 K dimensions and groups of up to 4 Quads query heads.
template <int K, int Quads>
struct Shape {
  static constexpr int kQueries = 4 * Quads;
  static constexpr int kWords = Quads * K * 2;  // of weights, a lane
  static constexpr int kUnitBlocks = 4 / (K > Quads ? K : Quads), kUnitRows = kUnitBlocks * kBlockRows;
  static constexpr int kScoreBytes = 1024 * Quads;  // of a block
};

/// One KV head's weights as a warp's operand B: a column for the high and one for the low byte of a query head.
template <int K, int Quads>
struct Weights {
  std::uint32_t b[Quads][K][2];
};

/// A block's codes as they come: of each half of a dimension's bytes. Lane 4 i + j has of each 8 dimensions 2 j and
/// 2 j + 1, and of each bytes 2 i and 2 i + 1.
template <int K>
struct Codes {
  std::uint32_t r[2][K][4];
};

/// A block's scores in units of 1 / factor, 16 times that in the high halves of bytes. Lane 4 i + j has query head
/// 4 n + j and rows 2 i and 2 i + 1 of each 16: [n][half * 4 + high * 2 + row].
template <int Quads>
using Products = float[Quads][8];

/// d += a * b.
__device__ inline void multiply(int (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                                const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b[0]), "r"(b[1]));
}

/// Four 8 x 8 tiles of 16-bit elements, transposed: lane 4 i + j gets of tile t the elements (2 j, i) and (2 j + 1, i).
__device__ inline void load_tiles(std::uint32_t (&r)[4], const void* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(at))
               : "memory");
}

template <int K>
__device__ inline void load_codes(Codes<K>& codes, const std::byte* block) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int k = 0; k < K; ++k)
      load_tiles(codes.r[half][k], block + (k * 32 + static_cast<int>(threadIdx.x) % 32) * 32 + half * 16);
}

/// Where, of a block's scores in shared memory, two neighbouring rows have those of two query heads, (row, row + 1)
/// of each: 16 bytes. So that neither writing nor reading waits for a bank.
__device__ inline int score_place(int pair, int heads) { return ((2 * pair + heads) ^ (pair >> 2 & 1)) * 16; }

/// The scores of a block's rows.
template <int K, int Quads>
__device__ inline void score_block(const Codes<K>& codes, const Weights<K, Quads>& w, Products<Quads>& x) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int sum[2][Quads][4] = {};  // low halves of bytes, then high
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const auto& r = codes.r[half][k];
      const std::uint32_t even = __byte_perm(r[0], r[1], 0x6420), odd = __byte_perm(r[0], r[1], 0x7531);
      const std::uint32_t even2 = __byte_perm(r[2], r[3], 0x6420), odd2 = __byte_perm(r[2], r[3], 0x7531);
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const std::uint32_t mask = high ? 0xf0f0f0f0u : 0x0f0f0f0fu;
#pragma unroll
        for (int n = 0; n < Quads; ++n)
          multiply(sum[high][n], even & mask, odd & mask, even2 & mask, odd2 & mask, w.b[n][k]);
      }
    }
#pragma unroll
    for (int high = 0; high < 2; ++high)
#pragma unroll
      for (int n = 0; n < Quads; ++n) {
        const auto& c = sum[high][n];
        float* two = x[n] + half * 4 + high * 2;
        two[0] = static_cast<float>(c[0] * 256 + c[1]);
        two[1] = static_cast<float>(c[2] * 256 + c[3]);
      }
  }
}

/// In place of the block's codes, once all lanes have read them: of each quad of heads 1 KiB.
template <int Quads>
__device__ inline void keep_scores(std::byte* block, const Products<Quads>& x) {
  const int lane = static_cast<int>(threadIdx.x) % 32, i = lane / 4, j = lane % 4;
  std::byte* const at = block + score_place(i, j / 2) + j % 2 * 8;
#pragma unroll
  for (int n = 0; n < Quads; ++n)
#pragma unroll
    for (int two = 0; two < 8; two += 2)
      *reinterpret_cast<float2*>(at + n * 1024 + (two / 4 * 8 + two / 2 % 2 * 16) * 32) = {x[n][two], x[n][two + 1]};
}

}  // namespace longhaul::cuda::labels
