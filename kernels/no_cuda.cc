// What kernels/cuda_device.h and select_probe.h mean in a build without CUDA.
#include "kernels/base/error.h"
#include "kernels/cuda_device.h"
#include "kernels/select_probe.h"

namespace longhaul {
namespace {

constexpr const char* kAbsent = "this build has no CUDA device; configure with the preset cuda";

}  // namespace

int cuda_device_count() { return 0; }

bool has_cuda_driver() { return false; }

std::string cuda_absence() { return kAbsent; }

std::int64_t cuda_free_memory(int) { throw DeviceError(kAbsent); }

std::string cuda_name(int) { throw DeviceError(kAbsent); }

int cuda_host_node(int) { throw DeviceError(kAbsent); }

CudaFacts cuda_facts(int) { throw DeviceError(kAbsent); }

std::unique_ptr<Device> make_cuda_device(int, std::int64_t, const GatherChoice&) { throw DeviceError(kAbsent); }

LinkProfile measure_link(int, std::int64_t) { throw DeviceError(kAbsent); }

SelectSeconds seconds_to_select(std::span<const SelectArgs>) { throw DeviceError(kAbsent); }

}  // namespace longhaul
