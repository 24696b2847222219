// What the streams of one CUDA device share. Owned by the device, outlives its streams and events; one host thread.
#pragma once
#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/matmul.h"
#include "kernels/device.h"

namespace longhaul::cuda {

class Machine {
 public:
  static constexpr std::int64_t kWorkspaceBytes = Matmul::kWorkspaceBytes + FusedAttention::kWorkspaceBytes;

  /// `workspace`: kWorkspaceBytes of device memory, the caller's.
  Machine(int ordinal, std::byte* workspace)
      : matmul(workspace), attention(workspace + Matmul::kWorkspaceBytes), ordinal_(ordinal) {
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, ordinal));
  }

  /// Before any CUDA call: the device becomes the calling thread's. Throws DeviceError when a kernel has found a fault
  /// in its operands; a lost context is told by the CUDA call that follows.
  void enter() const;
  int* fault_word() const { return fault_.get(); }

  Matmul matmul;
  FusedAttention attention;
  int processors;
  DeviceCounters counters;

 private:
  int ordinal_;
  HostWord fault_;
};

}  // namespace longhaul::cuda
