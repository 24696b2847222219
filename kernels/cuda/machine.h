// What the streams of one CUDA device share. Owned by the device, outlives its streams and events; one host thread.
#pragma once
#include "kernels/cuda/gatherer.h"
#include "kernels/cuda/matmul.h"
#include "kernels/device.h"

namespace longhaul::cuda {

class Machine {
 public:
  Machine(int ordinal, std::byte* workspace, const GatherChoice& choice)
      : matmul(workspace), gatherer(choice), ordinal_(ordinal) {}

  /// Before any CUDA call: the device becomes the calling thread's. Throws DeviceError when a kernel has found a fault
  /// in its operands; a lost context is told by the CUDA call that follows.
  void enter() const;
  int* fault_word() const { return fault_.get(); }

  Matmul matmul;
  Gatherer gatherer;
  DeviceCounters counters;

 private:
  int ordinal_;
  HostWord<int> fault_;
};

}  // namespace longhaul::cuda
