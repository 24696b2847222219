// Codes of 4 bits times weights, on the tensor cores: a code as the lowest bits of a half-precision number is the code
// times 2^-24, a weight is the sum of two halves, and sums are in float32. What an element of a product is does not
// depend on its place, so rows with the same codes have the same score wherever they are. Device code only.
#pragma once
#include "kernels/cuda/fill.cuh"
#include "kernels/cuda/select.cuh"

namespace longhaul::cuda::labels {

constexpr int kBlockRows = kAttendBlock, kGroupRows = 1024;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kEmpty = -1e30f;     // the maximum of no scores
constexpr int kWeightExponent = 15;  // of the largest weight, times the unit
constexpr int kCodeExponent = 24;    // of a code's unit; 4 less in the high half of a byte

/// Labels of up to 32 K dimensions and groups of up to 4 Quads query heads.
template <int K, int Quads>
struct Shape {
  static constexpr int kQueries = 4 * Quads, kSteps = 2 * K;  // of 16 dimensions
  static constexpr int kWords = Quads * kSteps * 2;           // of weights, a lane
  static constexpr int kUnitBlocks = 4 / (K > Quads ? K : Quads), kUnitRows = kUnitBlocks * kBlockRows;
  static constexpr int kGroupUnits = kGroupRows / kUnitRows;
  static constexpr int kScoreBytes = 1024 * Quads;  // of a block
  static constexpr int kPerLane = kUnitRows / 32;   // rows
};

/// One KV head's weights as a warp's operand B, two columns a query head, and what makes scores of its lane's sums.
template <int K, int Quads>
struct Weights {
  std::uint32_t b[Quads][2 * K][2];
  float factor[Quads];
};

/// d += a * b.
__device__ inline void multiply(float (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                                const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b[0]), "r"(b[1]));
}

/// Four 8 x 8 tiles of 16-bit elements, transposed: lane 4 i + j gets of tile t the elements (2 j, i) and (2 j + 1, i).
__device__ inline void load_tiles(std::uint32_t (&r)[4], const void* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(at))
               : "memory");
}

/// Where a row of a block has its scores, four heads together: so that neither writing nor reading waits for a bank.
__device__ inline int score_place(int row) { return row ^ (row >> 3 & 1); }

/// The scores of a block's rows in place of its codes: of each quad of heads [64, 4] floats.
template <int K, int Quads>
__device__ inline void score_block(std::byte* block, const Weights<K, Quads>& w) {
  const int lane = threadIdx.x % 32, i = lane / 4, j = lane % 4;
  float sum[2][2][Quads][4] = {};  // of bytes 16 half .. 16 half + 15 of a dimension; low halves of bytes, then high
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int k = 0; k < K; ++k) {
      std::uint32_t r[4];
      load_tiles(r, block + (k * 32 + lane) * 32 + half * 16);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const std::uint32_t x = r[2 * step], y = r[2 * step + 1], odd_x = x >> 8, odd_y = y >> 8;
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const std::uint32_t mask = high ? 0x00f000f0u : 0x000f000fu;
#pragma unroll
          for (int n = 0; n < Quads; ++n)
            multiply(sum[half][high][n], x & mask, odd_x & mask, y & mask, odd_y & mask, w.b[n][2 * k + step]);
        }
      }
    }
  __syncwarp();  // all codes have been read
  auto* scores = reinterpret_cast<float*>(block) + j;
  const int even = score_place(2 * i) * 4, odd = score_place(2 * i + 1) * 4;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int high = 0; high < 2; ++high)
#pragma unroll
      for (int n = 0; n < Quads; ++n) {
        const auto& c = sum[half][high][n];
        const float factor = high ? w.factor[n] * 0.0625f : w.factor[n];
        float* at = scores + n * 256 + (half * 16 + high * 32) * 4;
        at[even] = (c[0] + c[1]) * factor;
        at[odd] = (c[2] + c[3]) * factor;
      }
}

}  // namespace longhaul::cuda::labels
