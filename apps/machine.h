// The device of --device, what the machine has for it, and what its profile says.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "kernels/device.h"
#include "runtime/plan/machine_profile.h"
#include "runtime/plan/plan.h"

namespace longhaul {

/// The CUDA device that `name` means; none: the CPU device. Throws UserError{usage} for an unknown name.
std::optional<int> named_cuda_device(const std::string& name);
/// The same, of this machine. Throws UserError{device} too, for one that this build or this machine lacks.
std::optional<int> cuda_ordinal(const std::string& name);
/// As the device names itself, in profiles too.
std::string device_name(std::optional<int> cuda);

/// These totals, with what libraries and the program itself take of them.
Budget make_budget(bool cuda, Budget totals);
/// What the machine has for a device of this name: the free memory of a GPU less 512 MiB, or half of the host memory
/// available for the CPU device, unless `device_memory` says; for the host, or both of these together, what is
/// available (to its control groups, too) less an eighth, or less 1 GiB where that is less, and what the process holds
/// already.
Budget available_budget(const std::string& device, std::optional<std::int64_t> device_memory = {});

/// Where the profile is: `flag` (of --profile), or machine.json in .config/longhaul of the user's home folder, as the
/// user database has it. Empty for "none", and for a user without a home folder.
std::filesystem::path profile_file(const std::string& flag);
/// The profile of this device; none where there is no file, or it is another device's (one line on stderr says so).
/// Throws UserError{usage} for a file that is no profile, or that `flag` names and is absent.
std::optional<MachineProfile> find_profile(const std::string& flag, const std::string& device);

/// `link` is the CPU device's, GB/s each way; 0: as fast as memory. `profile` says how rows come over a GPU's link.
/// Throws UserError as cuda_ordinal, and {usage} for a link that is too slow.
std::unique_ptr<Device> open_device(const std::string& name, std::int64_t budget, double link,
                                    const std::optional<MachineProfile>& profile = {});

}  // namespace longhaul
