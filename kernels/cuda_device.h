// The CUDA device, chosen at link time: kernels/cuda defines these, or kernels/no_cuda.cc in a build without it.
// Fatal errors (DeviceError) leave the device useless to the process: every later call on it throws too.
#pragma once
#include <memory>
#include <string>

#include "kernels/device.h"
#include "kernels/link_profile.h"

namespace longhaul {

/// CUDA devices that this process can use; 0 without a driver.
int cuda_device_count();
/// Why there is none, and what to do: no driver, one too old, no GPU. Empty where there is one.
std::string cuda_absence();

/// Bytes of device memory free now, this process's CUDA context already taken off. Throws DeviceError.
std::int64_t cuda_free_memory(int ordinal);

/// `budget` bounds the device memory of allocate(); the device's own matrix-product workspace is the first of it
/// (used_bytes() of a fresh device). `gather` is how rows come over the link. One host thread drives a device. Throws
/// DeviceError, OutOfMemory.
std::unique_ptr<Device> make_cuda_device(int ordinal, std::int64_t budget, const GatherChoice& gather = {});

/// Measures the link with about `store_bytes` of pinned host memory (whole GiB) and 1 GiB of the device's: some seconds.
/// Small stores flatter, for the device keeps their address translations. Throws DeviceError, OutOfMemory.
LinkProfile measure_link(int ordinal, std::int64_t store_bytes = std::int64_t{8} << 30);

}  // namespace longhaul
