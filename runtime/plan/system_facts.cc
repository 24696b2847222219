#include "runtime/plan/system_facts.h"

#include <thread>

#include "kernels/base/host_memory.h"
#include "kernels/base/huge_pages.h"
#include "kernels/base/pinning_limits.h"
#include "kernels/base/system_file.h"

namespace longhaul {

SystemFacts system_facts(const std::filesystem::path& root) {
  return {.processor = value_in(root / "proc/cpuinfo", "model name"),
          .cores = static_cast<int>(std::thread::hardware_concurrency()),
          .memory_total = number_in(root / "proc/meminfo", "MemTotal:").value_or(0) * 1024,
          .memory_free = available_host_memory(root.string()),
          .memlock = memlock_limit(root),
          .group = tightest_memory_group(root),
          .wsl = under_wsl(root),
          .huge_pages = huge_page_mode(root),
          .nodes = numa_nodes(root),
          .nvidia_module = first_line(root / "sys/module/nvidia/version")};
}

}  // namespace longhaul
