// Tiles of bf16 in shared memory, for products on tensor cores: copied from device memory behind the computation, and
// read as operands of mma.cuh. Shared memory is named by its 32-bit address. Device code only.
#pragma once
#include <cstdint>

namespace longhaul::cuda {

/// Starts copying 16 bytes to shared memory; zeros where `there` is false, and then `from` is not read.
__device__ inline void copy_async(std::uint32_t to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ inline void commit_async() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// For all that this thread has started but the latest kBehind commits.
template <int kBehind = 0>
__device__ void wait_async() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kBehind) : "memory");
}

/// Four 8 x 8 matrices, a register each; lane 8 * n + r gives the address of row r of matrix n.
struct Matrices {
  std::uint32_t v[4];
};
__device__ inline Matrices load_matrices(std::uint32_t row) {
  Matrices x;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.v[0]), "=r"(x.v[1]), "=r"(x.v[2]), "=r"(x.v[3])
               : "r"(row)
               : "memory");
  return x;
}
__device__ inline Matrices load_transposed(std::uint32_t row) {
  Matrices x;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.v[0]), "=r"(x.v[1]), "=r"(x.v[2]), "=r"(x.v[3])
               : "r"(row)
               : "memory");
  return x;
}

}  // namespace longhaul::cuda
