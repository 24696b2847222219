// The one way to launch a kernel: it checks itself and names the call site.
#pragma once
#include <cuda_runtime.h>

#include "kernels/cuda/check.h"

namespace longhaul::cuda {

struct Launch {
  dim3 grid, block;
  std::size_t shared_bytes = 0;  // dynamic shared memory of a block
  cudaStream_t stream;
  bool cooperative = false;  // all blocks run at once, so that they can wait for each other
  bool early = false;        // blocks may start while the launch before ends: they wait for it (dependent.cuh)
  std::source_location at = std::source_location::current();

  template <class... Params, class... Args>
  void operator()(void (*kernel)(Params...), Args&&... args) const {
    constexpr std::size_t kWithoutAsking = 48 << 10;
    if (shared_bytes > kWithoutAsking)
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
            at);
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    cudaLaunchAttribute attributes[2]{};
    config.attrs = attributes;
    if (cooperative) {
      attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
      attributes[config.numAttrs++].val.cooperative = 1;
    }
    if (early) {
      attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    check(cudaLaunchKernelEx(&config, kernel, static_cast<Args&&>(args)...), at);
  }
};

}  // namespace longhaul::cuda
