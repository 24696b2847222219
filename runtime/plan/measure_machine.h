// A device and its link put to the test and measured: what `longhaul doctor` does.
#pragma once
#include <optional>

#include "kernels/device.h"
#include "runtime/plan/machine_profile.h"

namespace longhaul {

/// Sends random bytes through pinned memory to the device on one stream and back on another; how many came back wrong.
/// Throws what the device throws.
std::int64_t bytes_changed(Device& device, std::int64_t bytes = std::int64_t{64} << 20);

struct MeasureOptions {
  std::optional<int> cuda;  // the device's ordinal; none: not a CUDA device
  bool quick = false;       // once each, with less host memory
};

/// Some seconds. `device` has nothing allocated; what of its budget is missing makes measurements smaller. Throws
/// DeviceError, and OutOfMemory where not even the smallest fit.
MachineProfile measure_machine(Device& device, const std::string& name, const MeasureOptions& options);

}  // namespace longhaul
