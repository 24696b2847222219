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

}  // namespace

std::vector<MemoryGroup> memory_groups(const fs::path& root) {
  std::vector<MemoryGroup> groups;
  std::ifstream lines(root / "proc/self/cgroup");
  for (std::string line; std::getline(lines, line);) {  // "0::/path" (v2) or "4:memory:/path" (v1)
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = line.substr(first, second - first + 1);
    std::replace(controllers.begin(), controllers.end(), ':', ',');
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",memory,") == std::string::npos) continue;
    for (fs::path group = fs::path(line.substr(second + 1)).relative_path();; group = group.parent_path()) {
      add_group(root / "sys/fs/cgroup" / (v2 ? "" : "memory") / group, v2, groups);
      if (group.empty()) break;
    }
  }
  return groups;
}

std::optional<MemoryGroup> tightest_memory_group(const fs::path& root) {
  const auto groups = memory_groups(root);
  const auto least = std::ranges::min_element(groups, {}, &MemoryGroup::limit);
  return least == groups.end() ? std::nullopt : std::optional(*least);
}

}  // namespace longhaul
