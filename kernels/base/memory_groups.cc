#include "kernels/base/memory_groups.h"

#include <algorithm>
#include <fstream>
#include <string>

#include "kernels/base/system_file.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kUnlimited = std::int64_t{1} << 60;  // version 1 writes "no limit" as a number of pages

void add_group(const fs::path& folder, bool v2, std::vector<MemoryGroup>& groups) {
  const auto limit = number_in(folder / (v2 ? "memory.max" : "memory.limit_in_bytes"));
  const auto used = number_in(folder / (v2 ? "memory.current" : "memory.usage_in_bytes"));
  if (!limit || !used || *limit >= kUnlimited) return;
  const auto cache = number_in(folder / "memory.stat", v2 ? "inactive_file" : "total_inactive_file").value_or(0);
  groups.push_back({.version = v2 ? 2 : 1, .limit = *limit, .used = *used, .cache = std::min(cache, *used)});
}

/// Calls `see` with the folder of this process's group and of each group around it, the innermost first, until it
/// returns true.
void walk_groups(const fs::path& root, const auto& see) {
  std::ifstream lines(root / "proc/self/cgroup");
  for (std::string line; std::getline(lines, line);) {  // "0::/path" (v2) or "4:memory:/path" (v1)
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = line.substr(first, second - first + 1);
    std::replace(controllers.begin(), controllers.end(), ':', ',');
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",memory,") == std::string::npos) continue;
    for (fs::path group = fs::path(line.substr(second + 1)).relative_path();; group = group.parent_path()) {
      if (see(root / "sys/fs/cgroup" / (v2 ? "" : "memory") / group, v2)) return;
      if (group.empty()) break;
    }
  }
}

}  // namespace

std::vector<MemoryGroup> memory_groups(const fs::path& root) {
  std::vector<MemoryGroup> groups;
  walk_groups(root, [&](const fs::path& folder, bool v2) {
    add_group(folder, v2, groups);
    return false;
  });
  return groups;
}

std::optional<MemoryGroup> tightest_memory_group(const fs::path& root) {
  const auto groups = memory_groups(root);
  const auto least = std::ranges::min_element(groups, {}, &MemoryGroup::limit);
  return least == groups.end() ? std::nullopt : std::optional(*least);
}

std::int64_t oom_kills(const fs::path& root) {
  std::int64_t kills = 0;
  walk_groups(root, [&](const fs::path& folder, bool v2) {
    const auto count = number_in(folder / (v2 ? "memory.events" : "memory.oom_control"), "oom_kill");
    kills = count.value_or(0);
    return count.has_value();
  });
  return kills;
}

}  // namespace longhaul
