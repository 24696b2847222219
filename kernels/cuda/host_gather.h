// Host threads that gather rows for the gather kernel: they poll the ring's requests. Owned by the device. Threads of
// their own, not oneTBB's: a task that waits for the device would keep a worker from everybody else's work.
#pragma once
#include <atomic>
#include <thread>
#include <vector>

#include "kernels/cuda/gather_ring.h"

namespace longhaul::cuda {

class HostGather {
 public:
  /// `node`: of NUMA, that threads run on; -1: anywhere. Throws OutOfMemory when the ring cannot be pinned.
  HostGather(int threads, int slots, int node);
  HostGather(HostGather&&) = delete;
  ~HostGather();

  const GatherRing& ring() const { return ring_; }

 private:
  void serve(int first_slot);

  GatherRing ring_;
  std::byte* pinned_;
  std::vector<std::atomic<unsigned>> taken_;  // [slots] the latest request that a thread has taken
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace longhaul::cuda
