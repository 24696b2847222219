// The generation and width of a PCI Express link: what it runs at now, and what the device could do.
#pragma once
#include <filesystem>
#include <string>

namespace longhaul {

struct PcieLink {
  int gen = 0, width = 0, max_gen = 0, max_width = 0;  // 0: the system does not tell
  bool known() const { return gen > 0 && width > 0; }
  /// Slower than the device could; a link at rest may have gone down a generation.
  bool reduced() const { return known() && (gen < max_gen || width < max_width); }
  /// 10^9 bytes a second that it carries at most, one way, packet headers not taken off.
  double peak_GBps() const;
};

/// Of the PCI device "0000:3b:00.0", as sys/ has it. `root` is where sys/ lies; tests bring their own.
PcieLink pcie_link(const std::string& id, const std::filesystem::path& root = "/");

}  // namespace longhaul
