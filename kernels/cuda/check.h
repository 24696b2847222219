// Checks of CUDA and cuBLASLt calls: functions, not macros; the error names the call site.
#pragma once
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <source_location>

namespace longhaul::cuda {

/// Throws OutOfMemory for a refused allocation, DeviceError for all else and says when the error is sticky: then the
/// CUDA context is lost and every later call in this process fails the same way.
void check(cudaError_t error, std::source_location at = std::source_location::current());
void check(cublasStatus_t status, std::source_location at = std::source_location::current());

/// Whether `error` has ended the CUDA context.
bool is_sticky(cudaError_t error);

}  // namespace longhaul::cuda
