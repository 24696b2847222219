// Checks of CUDA and cuBLASLt calls: functions, not macros; the error names the call site.
#pragma once
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <source_location>

namespace longhaul::cuda {

/// What an error leaves behind.
enum class Severity {
  retryable,  // the context is whole; the same call may succeed later, or with less
  refused,    // the context is whole; the same call will fail again
  fatal,      // the context is lost: every later call in this process fails the same way, and no result counts
};
Severity severity_of(cudaError_t error);

/// Throws OutOfMemory for a refused allocation, DeviceError for all else: what failed where, and for what a user can
/// mend, how. After a fatal error the process ends (Exit::device); no result is computed after it.
void check(cudaError_t error, std::source_location at = std::source_location::current());
void check(cublasStatus_t status, std::source_location at = std::source_location::current());

}  // namespace longhaul::cuda
