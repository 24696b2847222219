// Memory that CUDA gives beside Device::allocate and Device::pin, and how its refusal is told.
#pragma once
#include <cstdint>
#include <source_location>

namespace longhaul::cuda {

/// On the current device. Throws OutOfMemory, DeviceError.
void* allocate_device(std::int64_t bytes, std::source_location at = std::source_location::current());
/// Host memory, pinned, that kernels read and write too. Throws likewise.
void* allocate_pinned(std::int64_t bytes, std::source_location at = std::source_location::current());

/// Throws the OutOfMemory of a GPU, the current one, that has no more to give, with what it has where it tells. `asked`
/// below 0: not known.
[[noreturn]] void throw_gpu_full(std::int64_t asked, const std::source_location& at);

}  // namespace longhaul::cuda
