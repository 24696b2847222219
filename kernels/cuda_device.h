// The CUDA device, chosen at link time: kernels/cuda defines these, or kernels/no_cuda.cc in a build without it.
// Fatal errors (DeviceError) leave the device useless to the process: every later call on it throws too.
#pragma once
#include <memory>
#include <string>

#include "kernels/base/pcie_link.h"
#include "kernels/device.h"
#include "kernels/link_profile.h"

namespace longhaul {

/// CUDA devices that this process can use; 0 without a driver.
int cuda_device_count();
/// Whether there is a driver, of whatever age.
bool has_cuda_driver();
/// Why there is no device, and what to do: no driver, one too old, no GPU. Empty where there is one.
std::string cuda_absence();

/// Bytes of device memory free now, this process's CUDA context already taken off. Throws DeviceError.
std::int64_t cuda_free_memory(int ordinal);

/// Device memory that a process has beside what it allocates, at most: the CUDA context, the code of kernels and of
/// libraries. Seen: 545 to 683 MiB on an H200 (tests/gpu_memory.py).
inline constexpr std::int64_t kCudaContextBytes = std::int64_t{768} << 20;

/// Device memory that a fresh device keeps for the libraries, of its budget.
inline constexpr std::int64_t kCudaWorkspaceBytes = (std::int64_t{32} << 20) + (std::int64_t{64} << 10);

/// "NVIDIA H200 (139.80 GiB, compute capability 9.0)": what a device's description begins with. Throws DeviceError.
std::string cuda_name(int ordinal);

/// NUMA node of the host's memory next to it; -1: one node, or not told. Throws DeviceError.
int cuda_host_node(int ordinal);

struct CudaFacts {
  std::string name, pci_id;  // "0000:3b:00.0"
  int major = 0, minor = 0;  // compute capability
  int processors = 0;
  std::int64_t free_bytes = 0, total_bytes = 0;
  std::string driver;                     // "580.95.05"; empty: not told
  int driver_cuda = 0, runtime_cuda = 0;  // 13000 is CUDA 13.0
  int numa_node = -1;                     // cuda_host_node()
  PcieLink link;                          // as it runs now
};
/// Throws DeviceError.
CudaFacts cuda_facts(int ordinal);

/// `budget` bounds the device memory of allocate(); kCudaWorkspaceBytes are the first of it (used_bytes() of a fresh
/// device). `gather` is how rows come over the link. One host thread drives a device. Throws
/// DeviceError, OutOfMemory.
std::unique_ptr<Device> make_cuda_device(int ordinal, std::int64_t budget, const GatherChoice& gather = {});

/// Measures the link with about `store_bytes` of pinned host memory (whole GiB) and 1 GiB of the device's: some
/// seconds. Small stores flatter, for the device keeps their address translations. Throws DeviceError, OutOfMemory.
LinkProfile measure_link(int ordinal, std::int64_t store_bytes = std::int64_t{8} << 30);

}  // namespace longhaul
