// What is known of a machine, and what its user could do about it.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda_device.h"
#include "runtime/plan/machine_profile.h"
#include "runtime/plan/system_facts.h"

namespace longhaul {

struct MachineReport {
  SystemFacts system;
  std::string no_cuda;          // why there is no CUDA device; empty where there is one
  std::vector<CudaFacts> gpus;  // by ordinal
  std::optional<int> gpu;       // which was measured; none: the CPU device
  std::string device;           // how the measured one names itself
  std::string failure;          // what went wrong in its test or its measurements; empty: nothing
  std::optional<MachineProfile> profile;
};

/// Plain lines, each with what was found and what to do; empty where nothing is amiss.
std::vector<std::string> advice(const MachineReport& report);

}  // namespace longhaul
