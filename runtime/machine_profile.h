// What was measured of a machine, in a JSON file that people may read: `longhaul doctor` writes it, runs read it.
#pragma once
#include <filesystem>
#include <string>

#include "kernels/link_profile.h"

namespace longhaul {

struct MachineProfile {
  std::string device;  // as the device describes itself: a profile of another one does not count
  LinkProfile link;
};

/// Throws UserError{usage} for a file that is not a profile, UserError{io} for one that cannot be read.
MachineProfile read_machine_profile(const std::filesystem::path& file);
/// Replaces the file as a whole. Throws UserError{io}.
void write_machine_profile(const std::filesystem::path& file, const MachineProfile& profile);

}  // namespace longhaul
