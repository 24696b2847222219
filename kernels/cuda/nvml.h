// What the driver's management library tells of a GPU and the runtime does not. It is opened when the program runs;
// where it is absent (some containers), nothing is told.
#pragma once
#include <string>

#include "kernels/base/pcie_link.h"

namespace longhaul::cuda {

struct NvmlFacts {
  std::string driver;  // "580.95.05"; empty: not told
  PcieLink link;       // max_gen and max_width: of the GPU
};

/// Of the GPU at this PCI bus id.
NvmlFacts nvml_facts(const std::string& pci_id);

}  // namespace longhaul::cuda
