// The one way to launch a kernel: it checks itself and names the call site.
#pragma once
#include <cuda_runtime.h>

#include "kernels/cuda/check.h"

namespace longhaul::cuda {

/// Hopper's additions: clusters of blocks, programmatic dependent launch. Of the current device.
inline bool has_hopper_launches() {
  int device = 0, major = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major >= 9;
}

struct Launch {
  dim3 grid, block;
  std::size_t shared_bytes = 0;  // dynamic shared memory of a block
  cudaStream_t stream;
  bool overlap = false;  // may start before the kernel before it ends, where the device can (overlap.cuh)
  unsigned cluster = 1;  // blocks along x that run together and see each other's shared memory
  std::source_location at = std::source_location::current();

  template <class... Params, class... Args>
  void operator()(void (*kernel)(Params...), Args&&... args) const {
    constexpr std::size_t kWithoutAsking = 8 << 10;  // of 48 KiB, what static shared memory may leave
    if (shared_bytes > kWithoutAsking)
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
            at);
    cudaLaunchAttribute attributes[2];
    unsigned count = 0;
    if (overlap && has_hopper_launches()) {
      attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attributes[count++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
      attributes[count].id = cudaLaunchAttributeClusterDimension;
      attributes[count++].val.clusterDim = {cluster, 1, 1};
    }
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = count;
    check(cudaLaunchKernelEx(&config, kernel, static_cast<Args&&>(args)...), at);
  }
};

/// Of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

}  // namespace longhaul::cuda
