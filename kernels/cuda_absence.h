// Why a process can use no CUDA device: told from what driver and runtime answer, so that every answer can be tested.
#pragma once
#include <string>

namespace longhaul {

/// Versions are CUDA's numbers: 13020 is CUDA 13.2.
struct CudaAnswers {
  int driver = 0;      // the newest CUDA that the driver serves; 0: there is no driver
  int runtime = 0;     // the CUDA of this build
  int devices = 0;     // that the driver counts
  std::string failed;  // why it could not count; empty: it could
};

/// One line with what to do; empty where there is a device.
std::string absence_of_cuda(const CudaAnswers&);

}  // namespace longhaul
