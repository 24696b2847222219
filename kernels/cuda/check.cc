#include "kernels/cuda/check.h"

#include "kernels/base/error.h"

namespace longhaul::cuda {
namespace {

std::string where(const std::source_location& at) {
  return fmt::format("{}:{} ({})", at.file_name(), at.line(), at.function_name());
}

}  // namespace

bool is_sticky(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorExternalDevice:
    case cudaErrorMpsClientTerminated:
    case cudaErrorContextIsDestroyed:
      return true;
    default:
      return false;
  }
}

void check(cudaError_t error, std::source_location at) {
  if (error == cudaSuccess) return;
  if (!is_sticky(error)) cudaGetLastError();  // so that a later call does not report it again
  if (error == cudaErrorMemoryAllocation) throw OutOfMemory(fmt::format("the CUDA runtime, at {}", where(at)), 0, 0);
  throw DeviceError(fmt::format("{}: {}: {}{}", where(at), cudaGetErrorName(error), cudaGetErrorString(error),
                                is_sticky(error) ? "; the device is lost to this process" : ""));
}

void check(cublasStatus_t status, std::source_location at) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(
      fmt::format("{}: {}: {}", where(at), cublasLtGetStatusName(status), cublasLtGetStatusString(status)));
}

}  // namespace longhaul::cuda
