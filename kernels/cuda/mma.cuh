// The warp-wide bf16 instructions of sm_80 and later, by the names and register layouts of the PTX manual. With
// i = lane / 4 and c = lane % 4, a 32-bit register of an operand holds the columns 2c and 2c + 1 of row i.
#pragma once
#include <cstdint>

namespace longhaul::cuda {

/// d [16, 8] += a [16, 16] * b [16, 8], in float32. a: rows i, i + 8, i, i + 8 by columns 2c, 2c, 2c + 8, 2c + 8; b:
/// column i by rows 2c, 2c + 8; d: rows i, i, i + 8, i + 8 by columns 2c, 2c + 1, 2c, 2c + 1.
__device__ inline void mma_bf16(float (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                                std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// The transpose of an 8 x 8 matrix of 16-bit elements.
__device__ inline std::uint32_t transpose8(std::uint32_t x) {
  std::uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

/// `low` in the lower half, both rounded to nearest.
__device__ inline std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t x;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
  return x;
}
__device__ inline float low_bf16(std::uint32_t x) { return __uint_as_float(x << 16); }
__device__ inline float high_bf16(std::uint32_t x) { return __uint_as_float(x & 0xffff0000u); }

}  // namespace longhaul::cuda
