// Host memory that a device can reach by DMA: next to it, touched, then pinned, with progress. The device outlives it.
#pragma once
#include <chrono>

#include "kernels/base/host_memory.h"
#include "kernels/device.h"

namespace longhaul {

class PinnedMemory {
 public:
  PinnedMemory(Device& device, std::int64_t bytes, const PinReport& report)
      : device_(device), memory_(bytes, "host memory", {.numa_node = device.host_node(), .touch = true}) {
    if (bytes > 0) device_.pin(memory_.data(), bytes, report);
    seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
  }
  PinnedMemory(PinnedMemory&&) = delete;
  ~PinnedMemory() {
    if (memory_.size() > 0) device_.unpin(memory_.data());
  }
  std::byte* data() const { return memory_.data(); }
  double seconds() const { return seconds_; }  // that touching and pinning took

 private:
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  double seconds_;
  Device& device_;
  HostMemory memory_;
};

}  // namespace longhaul
