// Launches that follow each other closely: the second's blocks start as the first's leave (Hopper on; before, one after
// the other). Device code only.
#pragma once
#include <cuda_runtime.h>

#include <nv/target>

namespace longhaul::cuda {

/// The launch that follows may start its blocks where there is room.
__device__ inline void let_next_start() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (cudaTriggerProgrammaticLaunchCompletion();))
}

/// Until the launch before is complete and what it wrote can be seen. Only then may a kernel launched with `early` read
/// what that one writes, or write what it reads.
__device__ inline void wait_for_previous() { NV_IF_TARGET(NV_PROVIDES_SM_90, (cudaGridDependencySynchronize();)) }

}  // namespace longhaul::cuda
