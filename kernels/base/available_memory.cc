// What is left of the machine's memory, as the kernel tells it: proc/meminfo, and the cgroups that this process is in.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

#include "kernels/base/host_memory.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

/// The number after the word `key`, or the first word where `key` is empty; none for "max" or a missing file.
std::optional<std::int64_t> number_in(const fs::path& file, std::string_view key = {}) {
  std::ifstream in(file);
  std::int64_t number;
  for (std::string word; !key.empty() && word != key;)
    if (!(in >> word)) return std::nullopt;
  if (in >> number) return number;
  return std::nullopt;
}

std::int64_t left_in_group(const fs::path& group, bool v2) {
  auto limit = number_in(group / (v2 ? "memory.max" : "memory.limit_in_bytes"));
  auto used = number_in(group / (v2 ? "memory.current" : "memory.usage_in_bytes"));
  if (!limit || !used) return kNoLimit;
  // A model file just read sits in the group's page cache; the kernel drops it before it refuses us.
  auto cache = number_in(group / "memory.stat", v2 ? "inactive_file" : "total_inactive_file").value_or(0);
  return std::max<std::int64_t>(0, *limit - *used + std::min(cache, *used));
}

/// The least of what is left in this process's group and the groups around it. Without a cgroup namespace the path may
/// lead nowhere below the mount; the mount's own files then hold the container's limit.
std::int64_t left_in_groups(const fs::path& root) {
  std::int64_t left = kNoLimit;
  std::ifstream lines(root / "proc/self/cgroup");
  for (std::string line; std::getline(lines, line);) {  // "0::/path" (v2) or "4:memory:/path" (v1)
    auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = line.substr(first, second - first + 1);
    std::replace(controllers.begin(), controllers.end(), ':', ',');
    bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",memory,") == std::string::npos) continue;
    for (fs::path group = fs::path(line.substr(second + 1)).relative_path();; group = group.parent_path()) {
      left = std::min(left, left_in_group(root / "sys/fs/cgroup" / (v2 ? "" : "memory") / group, v2));
      if (group.empty()) break;
    }
  }
  return left;
}

}  // namespace

std::int64_t available_host_memory(std::string_view root) {
  auto kib = number_in(fs::path(root) / "proc/meminfo", "MemAvailable:");
  return std::min(kib ? *kib * 1024 : kNoLimit, left_in_groups(root));
}

std::int64_t peak_resident_bytes() { return number_in("/proc/self/status", "VmHWM:").value_or(0) * 1024; }

}  // namespace longhaul
