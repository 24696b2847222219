#include "kernels/cuda/check.h"

#include <string_view>

#include "kernels/base/error.h"
#include "kernels/cuda/allocate.h"

namespace longhaul::cuda {
namespace {

/// A user reads what happened and what to do; who looks for the cause finds the call behind it.
std::string told(std::string_view happened, const std::string& advice, const char* name,
                 const std::source_location& at) {
  return fmt::format("{}{}{} [{} at {}:{}]", happened, advice.empty() ? "" : "; ", advice, name, at.file_name(),
                     at.line());
}

constexpr const char* kAgain =
    "start again, a batch goes on where it stood; if it comes back, test the GPU with longhaul doctor";

/// What a user can do, by error; else by severity.
std::string advice(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorContained:
    case cudaErrorNvlinkUncorrectable:
      return "the GPU's memory or link has failed: check it with nvidia-smi -q, and use another until then";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return "this build has no code for this GPU: configure with -DCMAKE_CUDA_ARCHITECTURES=native, or --device cpu";
    case cudaErrorInsufficientDriver:
    case cudaErrorCompatNotSupportedOnDevice:
      return "the driver is older than this build's CUDA: update it, or use --device cpu";
    case cudaErrorDevicesUnavailable:
      return "another process has the GPU for itself: try again later, or use another";
    default:
      break;
  }
  switch (severity_of(error)) {
    case Severity::fatal:
      return fmt::format("the GPU is lost to this process: {}", kAgain);
    case Severity::retryable:
      return "it may succeed when tried again";
    case Severity::refused:
      break;
  }
  return {};
}

}  // namespace

Severity severity_of(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
    case cudaErrorNotReady:
    case cudaErrorSystemNotReady:
    case cudaErrorDevicesUnavailable:
    case cudaErrorMpsServerNotReady:
    case cudaErrorMpsMaxClientsReached:
    case cudaErrorMpsMaxConnectionsReached:
      return Severity::retryable;
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
    case cudaErrorDeviceUninitialized:
    case cudaErrorCudartUnloading:
    case cudaErrorUnknown:
      return Severity::fatal;
    default:
      return Severity::refused;
  }
}

void check(cudaError_t error, std::source_location at) {
  if (error == cudaSuccess) return;
  if (severity_of(error) != Severity::fatal) cudaGetLastError();  // so that a later call does not report it again
  if (error == cudaErrorMemoryAllocation) throw_gpu_full(-1, at);
  throw DeviceError(
      told(fmt::format("CUDA: {}", cudaGetErrorString(error)), advice(error), cudaGetErrorName(error), at));
}

void check(cublasStatus_t status, std::source_location at) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw_gpu_full(-1, at);
  throw DeviceError(
      told(fmt::format("cuBLASLt: {}", cublasLtGetStatusString(status)), kAgain, cublasLtGetStatusName(status), at));
}

}  // namespace longhaul::cuda
