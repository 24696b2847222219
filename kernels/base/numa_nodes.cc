#include "kernels/base/numa_nodes.h"

#include <algorithm>
#include <set>
#include <sstream>

#include "kernels/base/system_file.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

/// "0-3,8,10-11".
std::set<int> processors(const std::string& list) {
  std::set<int> found;
  std::istringstream in(list);
  for (std::string run; std::getline(in, run, ',');) {
    int first = 0, last = 0;
    char dash = 0;
    std::istringstream numbers(run);
    if (!(numbers >> first)) continue;
    if (!(numbers >> dash >> last) || dash != '-') last = first;
    for (int i = first; i <= last && found.size() < (1 << 16); ++i) found.insert(i);
  }
  return found;
}

}  // namespace

std::vector<NumaNode> numa_nodes(const fs::path& root) {
  const std::set<int> ours = processors(value_in(root / "proc/self/status", "Cpus_allowed_list"));
  std::vector<NumaNode> nodes;
  for (const int id : processors(first_line(root / "sys/devices/system/node/online"))) {
    const fs::path folder = root / "sys/devices/system/node" / ("node" + std::to_string(id));
    const std::set<int> here = processors(first_line(folder / "cpulist"));
    nodes.push_back({.id = id,
                     .total = number_in(folder / "meminfo", "MemTotal:").value_or(0) * 1024,
                     .free = number_in(folder / "meminfo", "MemFree:").value_or(0) * 1024,
                     .ours = std::ranges::any_of(here, [&](int cpu) { return ours.contains(cpu); })});
  }
  return nodes;
}

int numa_node_of_pci(const std::string& id, const fs::path& root) {
  return static_cast<int>(number_in(root / "sys/bus/pci/devices" / id / "numa_node").value_or(-1));
}

}  // namespace longhaul
