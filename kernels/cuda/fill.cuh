// A warp's copies of global memory into shared memory, under way while it works; a barrier word in shared memory tells
// when one is complete. By the copy engine where there is one (Hopper on), else by 16 bytes a lane. Device code only.
#pragma once
#include <nv/target>

#include <cstddef>
#include <cstdint>

namespace longhaul::cuda {

using FillBarrier = std::uint64_t;

__device__ inline std::uint32_t shared_address(const void* at) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(at));
}

/// By one thread, before a __syncthreads().
__device__ inline void init_fill(FillBarrier* barrier) {
  NV_IF_ELSE_TARGET(NV_PROVIDES_SM_90,
                    (asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\tfence.proxy.async.shared::cta;" ::"r"(
                                      shared_address(barrier))
                                  : "memory");),
                    (asm volatile("mbarrier.init.shared.b64 [%0], 32;" ::"r"(shared_address(barrier))
                                  : "memory");))
}

/// By a whole warp, all of which is done with what was there: before a fill of memory that it has written itself.
__device__ inline void reuse_filled() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (asm volatile("fence.proxy.async.shared::cta;" ::: "memory");))
  __syncwarp();
}

/// By a whole warp: `pieces` of `bytes` each, one after another, to places that are `spread` apart; all multiples of 16
/// and above 0. What is read `once` is the first to leave the L2 cache, so that it does not drive out the rest: code,
/// for one.
__device__ inline void fill(std::byte* to, int spread, const std::byte* from, int bytes, int pieces, bool once,
                            FillBarrier* barrier) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (spread == bytes) bytes *= pieces, pieces = 1;
  const std::uint32_t dst = shared_address(to), done = shared_address(barrier);
  NV_IF_ELSE_TARGET(
      NV_PROVIDES_SM_90, (if (lane == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(done), "r"(bytes * pieces)
                     : "memory");
        _Pragma("unroll 1") for (int i = 0; i < pieces; ++i) asm volatile(
            "{\n\t.reg .pred p;\n\t.reg .b64 first, usual;\n\tsetp.ne.u32 p, %4, 0;\n\t"
            "createpolicy.fractional.L2::evict_first.b64 first;\n\t"
            "createpolicy.fractional.L2::evict_normal.b64 usual;\n\tselp.b64 first, first, usual, p;\n\t"
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], "
            "first;\n\t}" ::"r"(dst + static_cast<std::uint32_t>(i * spread)),
            "l"(from + i * bytes), "r"(bytes), "r"(done), "r"(static_cast<int>(once)) : "memory");
      }),
      (for (int i = lane * 16; i < bytes * pieces; i += 32 * 16) asm volatile(
           "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
               dst + static_cast<std::uint32_t>(i / bytes * spread + i % bytes)),
           "l"(from + i)
           : "memory");
       asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(done)
                    : "memory");))
}

/// Until the fill of this parity (0, 1, 0, ...) is complete.
__device__ inline void wait_filled(FillBarrier* barrier, unsigned parity) {
  std::uint32_t done = 0;
  while (done == 0)
    asm volatile("{\n\t.reg .pred p;\n\tmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
}

}  // namespace longhaul::cuda
