// What the streams of one CUDA device share. Owned by the device, outlives its streams and events; one host thread.
#pragma once
#include <atomic>
#include <exception>
#include <mutex>

#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/gatherer.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/stream_clock.h"
#include "kernels/device.h"
#include "kernels/pinned_chunks.h"

namespace longhaul::cuda {

class Machine {
 public:
  static constexpr std::int64_t kWorkspaceBytes = Matmul::kWorkspaceBytes + FusedAttention::kWorkspaceBytes;
  static constexpr std::int64_t kPinnedChunk = std::int64_t{4} << 30;

  /// `workspace`: kWorkspaceBytes of device memory, the caller's. `host_node`: Device::host_node().
  Machine(int ordinal, int host_node, std::byte* workspace, const GatherChoice& choice);

  /// Before any CUDA call: the device becomes the calling thread's. Throws DeviceError when a kernel has found a fault
  /// in its operands; a lost context is told by the CUDA call that follows.
  void enter() const;
  int* fault_word() const { return fault_.get(); }
  /// From work that a stream runs on the host: the next enter() throws it, and every later one.
  void fail(std::exception_ptr) noexcept;

  Matmul matmul;
  FusedAttention attention;
  PinnedChunks pins;
  Gatherer gatherer;
  int processors;
  std::uint64_t capture = 0;  // number of the recording under way; 0: none
  DeviceCounters counters;
  StreamClock clock;

 private:
  int ordinal_;
  HostWord<int> fault_;
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr failure_;  // the first; written once, before failed_
};

}  // namespace longhaul::cuda
