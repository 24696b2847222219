// The control groups that bound this process's memory, versions 1 and 2. `root` is where proc/ and sys/ lie; tests
// bring their own.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace longhaul {

struct MemoryGroup {
  int version;         // 1 or 2
  std::int64_t limit;  // bytes
  std::int64_t used;   // of those, at this moment
  std::int64_t cache;  // of the used ones, files' pages that the kernel drops before it refuses memory
};

/// This process's group and the groups around it that have a limit, the innermost first. Without a cgroup namespace the
/// path may lead nowhere below the mount; the mount's own files then hold the container's limit.
std::vector<MemoryGroup> memory_groups(const std::filesystem::path& root = "/");
/// The one with the least limit.
std::optional<MemoryGroup> tightest_memory_group(const std::filesystem::path& root = "/");

/// How many processes of this process's group the kernel has killed for want of memory; 0 where it does not tell.
std::int64_t oom_kills(const std::filesystem::path& root = "/");

}  // namespace longhaul
