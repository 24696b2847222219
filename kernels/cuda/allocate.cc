#include "kernels/cuda/allocate.h"

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/host_memory.h"
#include "kernels/cuda/check.h"

namespace longhaul::cuda {

void* allocate_device(std::int64_t bytes, std::source_location at) {
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, static_cast<std::size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // told by what is thrown
    throw_gpu_full(bytes, at);
  }
  check(error, at);
  return memory;
}

void* allocate_pinned(std::int64_t bytes, std::source_location at) {
  void* memory = nullptr;
  const cudaError_t error =
      cudaHostAlloc(&memory, static_cast<std::size_t>(bytes), cudaHostAllocMapped | cudaHostAllocPortable);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw OutOfMemory("pinned host memory (the driver refuses more; a smaller --host-memory may do)", bytes,
                      available_host_memory());
  }
  check(error, at);
  return memory;
}

void throw_gpu_full(std::int64_t asked, const std::source_location& at) {
  constexpr const char* kAdvice = "a smaller --gpu-memory leaves it more; nvidia-smi shows what else runs there";
  std::size_t free = 0, total = 0;
  const bool tells = cudaMemGetInfo(&free, &total) == cudaSuccess;
  if (!tells) cudaGetLastError();  // what was refused is told, not this
  const std::string whole = tells ? format_bytes(static_cast<std::int64_t>(total)) : "memory";
  throw OutOfMemory(
      fmt::format("CUDA's own part of the GPU's {} ({}) [{}:{}]", whole, kAdvice, at.file_name(), at.line()), asked,
      tells ? static_cast<std::int64_t>(free) : -1);
}

}  // namespace longhaul::cuda
