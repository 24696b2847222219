// The few functions of libnvidia-ml that are needed, declared here: the toolkit does not always bring its header, and
// their form has not changed since CUDA 4.
#include "kernels/cuda/nvml.h"

#include <dlfcn.h>

#include <array>
#include <memory>

namespace longhaul::cuda {
namespace {

using Gpu = void*;
constexpr int kDone = 0;

class Nvml {
 public:
  Nvml() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW)) {
    const auto init = find<int()>("nvmlInit_v2");
    running_ = init != nullptr && init() == kDone;
  }
  Nvml(Nvml&&) = delete;
  ~Nvml() {
    if (const auto shutdown = running_ ? find<int()>("nvmlShutdown") : nullptr) shutdown();
    if (library_ != nullptr) dlclose(library_);
  }

  std::string driver() const {
    const auto ask = running_ ? find<int(char*, unsigned)>("nvmlSystemGetDriverVersion") : nullptr;
    std::array<char, 96> text{};
    return ask != nullptr && ask(text.data(), text.size()) == kDone ? text.data() : std::string();
  }
  Gpu gpu(const std::string& pci_id) const {
    const auto ask = running_ ? find<int(const char*, Gpu*)>("nvmlDeviceGetHandleByPciBusId_v2") : nullptr;
    Gpu found = nullptr;
    return ask != nullptr && ask(pci_id.c_str(), &found) == kDone ? found : nullptr;
  }
  int number(const char* function, Gpu gpu) const {
    const auto ask = find<int(Gpu, unsigned*)>(function);
    unsigned value = 0;
    return ask != nullptr && ask(gpu, &value) == kDone ? static_cast<int>(value) : 0;
  }

 private:
  template <class Function>
  Function* find(const char* name) const {
    return library_ == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(library_, name));
  }

  void* library_;
  bool running_;
};

}  // namespace

NvmlFacts nvml_facts(const std::string& pci_id) {
  const Nvml nvml;
  NvmlFacts facts{.driver = nvml.driver(), .link = {}};
  const Gpu gpu = nvml.gpu(pci_id);
  if (gpu == nullptr) return facts;
  facts.link = {.gen = nvml.number("nvmlDeviceGetCurrPcieLinkGeneration", gpu),
                .width = nvml.number("nvmlDeviceGetCurrPcieLinkWidth", gpu),
                .max_gen = nvml.number("nvmlDeviceGetGpuMaxPcieLinkGeneration", gpu),
                .max_width = nvml.number("nvmlDeviceGetMaxPcieLinkWidth", gpu)};
  // Older drivers know only what the GPU and its slot can do together.
  if (facts.link.max_gen == 0) facts.link.max_gen = nvml.number("nvmlDeviceGetMaxPcieLinkGeneration", gpu);
  return facts;
}

}  // namespace longhaul::cuda
