// What is left of the machine's memory, as the kernel tells it.
#include <algorithm>
#include <limits>

#include "kernels/base/host_memory.h"
#include "kernels/base/memory_groups.h"
#include "kernels/base/system_file.h"

namespace longhaul {

std::int64_t available_host_memory(std::string_view root) {
  const auto kib = number_in(std::filesystem::path(root) / "proc/meminfo", "MemAvailable:");
  std::int64_t left = kib ? *kib * 1024 : std::numeric_limits<std::int64_t>::max();
  for (const MemoryGroup& group : memory_groups(root))
    left = std::min(left, std::max<std::int64_t>(0, group.limit - group.used + group.cache));
  return left;
}

std::int64_t resident_bytes() { return number_in("/proc/self/status", "VmRSS:").value_or(0) * 1024; }

std::int64_t peak_resident_bytes() { return number_in("/proc/self/status", "VmHWM:").value_or(0) * 1024; }

}  // namespace longhaul
