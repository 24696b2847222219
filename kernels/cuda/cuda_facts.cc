// What the runtime, the driver's management library and sys/ tell of a GPU, without allocating on it.
#include <algorithm>
#include <array>
#include <cctype>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/numa_nodes.h"
#include "kernels/base/system_file.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/nvml.h"
#include "kernels/cuda_device.h"

namespace longhaul {
namespace {

std::string pci_id(int ordinal) {
  std::array<char, 32> id{};
  cuda::check(cudaDeviceGetPCIBusId(id.data(), static_cast<int>(id.size()), ordinal));
  std::string text = id.data();
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });  // as sys/ spells it
  return text;
}

cudaDeviceProp properties_of(int ordinal) {
  cudaDeviceProp properties;
  cuda::check(cudaGetDeviceProperties(&properties, ordinal));
  return properties;
}

}  // namespace

std::string cuda_name(int ordinal) {
  const cudaDeviceProp p = properties_of(ordinal);
  return fmt::format("{} ({}, compute capability {}.{})", p.name,
                     format_bytes(static_cast<std::int64_t>(p.totalGlobalMem)), p.major, p.minor);
}

int cuda_host_node(int ordinal) {
  int node = -1;
  cuda::check(cudaDeviceGetAttribute(&node, cudaDevAttrHostNumaId, ordinal));
  return node < 0 ? numa_node_of_pci(pci_id(ordinal)) : node;
}

CudaFacts cuda_facts(int ordinal) {
  const cudaDeviceProp p = properties_of(ordinal);
  CudaFacts facts{.name = p.name, .pci_id = pci_id(ordinal), .major = p.major, .minor = p.minor};
  facts.processors = p.multiProcessorCount;
  facts.total_bytes = static_cast<std::int64_t>(p.totalGlobalMem);
  facts.free_bytes = cuda_free_memory(ordinal);
  cuda::check(cudaDriverGetVersion(&facts.driver_cuda));
  cuda::check(cudaRuntimeGetVersion(&facts.runtime_cuda));
  facts.numa_node = cuda_host_node(ordinal);
  const cuda::NvmlFacts nvml = cuda::nvml_facts(facts.pci_id);
  facts.driver = nvml.driver.empty() ? first_line("/sys/module/nvidia/version") : nvml.driver;
  facts.link = nvml.link.known() ? nvml.link : pcie_link(facts.pci_id);
  return facts;
}

}  // namespace longhaul
