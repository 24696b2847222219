// Tensor-core products of bf16 and what feeds them: a warp's instructions since Ampere, one function each. Shared
// memory is named by its 32-bit address. Device code only.
#pragma once
#include <cuda_bf16.h>

namespace longhaul::cuda {

/// 32-bit words of a lane, two bf16 each.
template <int N>
struct Fragment {
  unsigned v[N];
};

/// sum += a * b: a 16 x 16, b 16 x 8, laid over the lanes as the instruction set describes (mma.m16n8k16).
__device__ inline void multiply(float (&sum)[4], const Fragment<4>& a, unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b0), "r"(b1));
}

/// Four 8 x 8 matrices; lane 8 * i + r gives the address of row r of matrix i.
__device__ inline Fragment<4> load_matrices(unsigned row) {
  Fragment<4> x;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.v[0]), "=r"(x.v[1]), "=r"(x.v[2]), "=r"(x.v[3])
               : "r"(row));
  return x;
}
__device__ inline Fragment<4> load_transposed(unsigned row) {
  Fragment<4> x;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.v[0]), "=r"(x.v[1]), "=r"(x.v[2]), "=r"(x.v[3])
               : "r"(row));
  return x;
}

__device__ inline unsigned pack_bf16(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&both);
}

/// Starts copying 16 bytes to shared memory; zeros where `there` is false, and `from` is not read.
__device__ inline void copy_async(unsigned to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ inline void commit_async() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ inline void wait_async() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

}  // namespace longhaul::cuda
