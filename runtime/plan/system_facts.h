// The machine below the device, as the system tells it.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/memory_groups.h"
#include "kernels/base/numa_nodes.h"

namespace longhaul {

struct SystemFacts {
  std::string processor;  // empty: not told
  int cores = 0;          // that this process may use
  std::int64_t memory_total = 0, memory_free = 0;
  std::optional<std::int64_t> memlock;  // bytes; none: no limit
  std::optional<MemoryGroup> group;     // the control group with the least memory; none: no limit
  bool wsl = false;
  std::string huge_pages;  // "always", "madvise", "never"; empty: not told
  std::vector<NumaNode> nodes;
  std::string nvidia_module;  // version of the kernel's module; empty: not loaded
};

/// `root` is where proc/ and sys/ lie; tests bring their own.
SystemFacts system_facts(const std::filesystem::path& root = "/");

}  // namespace longhaul
