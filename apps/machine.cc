#include "apps/machine.h"

#include <pwd.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <thread>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/host_memory.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cuda_device.h"

namespace longhaul {

std::optional<int> named_cuda_device(const std::string& name) {
  if (name == "cpu") return {};
  if (name == "auto") return cuda_device_count() > 0 ? std::optional(0) : std::nullopt;
  if (name == "cuda") return 0;
  int ordinal = 0;
  auto digits = std::string_view(name).substr(std::min<std::size_t>(name.size(), 5));
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), ordinal);
  if (!name.starts_with("cuda:") || error != std::errc{} || end != digits.data() + digits.size() || ordinal < 0)
    throw UserError(Exit::usage, "--device {}: unknown; known: auto, cpu, cuda, cuda:INDEX", name);
  return ordinal;
}

std::optional<int> cuda_ordinal(const std::string& name) {
  const std::optional<int> ordinal = named_cuda_device(name);
  if (!ordinal) return {};
  const int count = cuda_device_count();
  if (count == 0) throw UserError(Exit::device, "--device {}: {}; or use --device cpu", name, cuda_absence());
  if (*ordinal >= count)
    throw UserError(Exit::device, "--device {}: this machine has {} CUDA devices, 0 to {}", name, count, count - 1);
  return ordinal;
}

std::string device_name(std::optional<int> cuda) { return cuda ? cuda_name(*cuda) : cpu_device_name(); }

Budget make_budget(bool cuda, Budget totals) {
  constexpr std::int64_t kMiB = std::int64_t{1} << 20;
  totals.libraries = cuda ? kCudaContextBytes + kCudaWorkspaceBytes : 0;
  // Seen: 24 MiB for a run on the CPU device without labels, 41 to 80 with them on one or two cores. A CUDA context and
  // its libraries' code are in the host's memory too: 425 to 503 MiB, with labels on 16 cores 571 to 1,032.
  const auto cores = static_cast<std::int64_t>(std::thread::hardware_concurrency());
  totals.program = (cuda ? 576 : 32) * kMiB;
  totals.fitting = (cuda ? 64 + 32 * std::min<std::int64_t>(cores, 32) : 32 + 16 * cores) * kMiB;
  return totals;
}

namespace {

/// What the process has in memory beyond what make_budget counts as the program. In whole MiB, so that the same job is
/// planned alike.
std::int64_t held_memory(bool cuda) {
  constexpr std::int64_t kMiB = std::int64_t{1} << 20;
  const std::int64_t at_start = (cuda ? 256 : 20) * kMiB;
  trim_heap();
  return round_up(std::max<std::int64_t>(resident_bytes() - at_start, 0), kMiB);
}

}  // namespace

Budget available_budget(const std::string& device, std::optional<std::int64_t> device_memory) {
  // Of kCudaContextBytes what is not taken yet: a GPU loads kernels' code when they first run.
  constexpr std::int64_t kCode = std::int64_t{512} << 20;
  const std::optional<int> ordinal = cuda_ordinal(device);
  const std::int64_t held = held_memory(ordinal.has_value()), now = available_host_memory();
  const std::int64_t available = now - std::min(now / 8, std::int64_t{1} << 30) + held;
  if (ordinal) {
    const std::int64_t total = device_memory ? *device_memory : cuda_free_memory(*ordinal) - kCode + kCudaContextBytes;
    return make_budget(true, {.device = std::max<std::int64_t>(total, 0), .host = available, .held = held});
  }
  return make_budget(
      false, {.device = device_memory.value_or(available / 2), .host = available, .together = available, .held = held});
}

std::filesystem::path profile_file(const std::string& flag) {
  if (flag == "none") return {};
  if (!flag.empty()) return flag;
  const passwd* user = ::getpwuid(::getuid());
  if (user == nullptr || user->pw_dir == nullptr || *user->pw_dir == 0) return {};
  return std::filesystem::path(user->pw_dir) / ".config/longhaul/machine.json";
}

std::optional<MachineProfile> find_profile(const std::string& flag, const std::string& device) {
  const std::filesystem::path file = profile_file(flag);
  std::error_code unknown;
  if (file.empty() || (flag.empty() && !std::filesystem::exists(file, unknown))) return {};
  MachineProfile profile = read_machine_profile(file);
  if (profile.device == device) return profile;
  spdlog::info("machine profile {} is of {}, not of {}: not used", file.string(), profile.device, device);
  return {};
}

std::unique_ptr<Device> open_device(const std::string& name, std::int64_t budget, double link,
                                    const std::optional<MachineProfile>& profile) {
  if (auto ordinal = cuda_ordinal(name)) {
    constexpr std::int64_t kLeast = kCudaContextBytes + kCudaWorkspaceBytes;
    if (budget < kLeast)
      throw UserError(Exit::plan_does_not_fit, "of {} of device memory CUDA and its libraries take {}: give more",
                      format_bytes(budget), format_bytes(kLeast));
    return make_cuda_device(*ordinal, budget - kCudaContextBytes, profile ? profile->link.gather : GatherChoice{});
  }
  if (name == "auto" && has_cuda_driver()) spdlog::warn("no GPU is used: {}", cuda_absence());
  if (link > 0 && link < 1e-3)
    throw UserError(Exit::usage, "--cpu-link {}: a link has at least 0.001 GB/s; 0 is as fast as memory", link);
  CpuDeviceOptions cpu;
  cpu.budget = budget;
  cpu.link_bytes_per_second = link * 1e9;
  return make_cpu_device(std::move(cpu));
}

}  // namespace longhaul
