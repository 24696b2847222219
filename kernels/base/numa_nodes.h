// The machine's NUMA nodes, and which of them this process and a device belong to. `root` is where proc/ and sys/ lie;
// tests bring their own.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace longhaul {

struct NumaNode {
  int id;
  std::int64_t total, free;  // bytes of memory
  bool ours;                 // this process may run on one of its processors
};

/// By number; empty where the system does not tell.
std::vector<NumaNode> numa_nodes(const std::filesystem::path& root = "/");
/// Of the PCI device "0000:3b:00.0"; -1 where there is one node, or the system does not tell.
int numa_node_of_pci(const std::string& id, const std::filesystem::path& root = "/");

}  // namespace longhaul
