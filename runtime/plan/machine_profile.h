// What was measured of a machine, in a JSON file that people may read: `longhaul doctor` writes it, runs read it.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/link_profile.h"

namespace longhaul {

/// 10^9 bytes, 10^12 operations and 2^30 bytes a second.
struct DeviceRates {
  double copy_GBps = 0;         // read and written, of a copy within the device's memory
  double product_TFLOPs = 0;    // of a large bf16 product
  double attention_TFLOPs = 0;  // of prefill attention, bf16, causal
  double pin_GiBps = 0;         // from nothing to host memory that the device reaches
};

struct MachineProfile {
  std::string device;  // as the device names itself: a profile of another one does not count
  LinkProfile link;
  DeviceRates rates;
};

/// Throws UserError{usage} for a file that is not a profile, UserError{io} for one that cannot be read.
MachineProfile read_machine_profile(const std::filesystem::path& file);
/// As the file has it.
nlohmann::ordered_json to_json(const MachineProfile& profile);
/// Replaces the file as a whole. Throws UserError{io}.
void write_machine_profile(const std::filesystem::path& file, const MachineProfile& profile);

}  // namespace longhaul
