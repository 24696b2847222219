#include "kernels/cuda_absence.h"

#include <fmt/format.h>

namespace longhaul {

std::string absence_of_cuda(const CudaAnswers& a) {
  if (a.devices > 0) return {};
  if (a.driver == 0) return "this machine has no NVIDIA driver: install one";
  // A driver serves every runtime of its major version, older ones, and no newer ones.
  const int major = a.driver / 1000, needed = a.runtime / 1000;
  if (major < needed)
    return fmt::format("the NVIDIA driver has CUDA {}.{} and this build needs {}.0 or newer: update the driver", major,
                       a.driver % 1000 / 10, needed);
  return fmt::format("the NVIDIA driver shows no GPU{}: see nvidia-smi and CUDA_VISIBLE_DEVICES",
                     a.failed.empty() ? "" : " (" + a.failed + ")");
}

}  // namespace longhaul
