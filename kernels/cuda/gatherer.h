// gather and what its launches share: the queue of chunks, the host's threads, the count of bytes. Owned by the device;
// gathers of different streams take turns.
#pragma once
#include <memory>
#include <optional>

#include "kernels/cuda/gather.h"
#include "kernels/cuda/handles.h"
#include "kernels/cuda/host_gather.h"
#include "kernels/link_profile.h"

namespace longhaul::cuda {

class Gatherer {
 public:
  /// Host threads, if any, run on `host_node`, where the rows are.
  Gatherer(const GatherChoice&, int host_node);

  void run(const GatherArgs&, int* fault, cudaStream_t);
  /// The stream ends, its work done.
  void forget(cudaStream_t stream) {
    if (last_ == stream) last_ = nullptr;
  }
  /// Of a launch.
  unsigned blocks() const { return blocks_of(routes_).of_host + blocks_of(routes_).of_device; }
  /// Brought so far by gathers that have run.
  std::int64_t bytes() const { return static_cast<std::int64_t>(bytes_.read()); }

 private:
  struct Free {
    void operator()(GatherQueue* queue) const { cudaFree(queue); }
  };

  std::unique_ptr<GatherQueue, Free> queue_;
  HostWord<unsigned long long> bytes_;
  std::optional<HostGather> host_;
  GatherRoutes routes_;
  EventHandle handed_over_;
  cudaStream_t last_ = nullptr;  // whose gathers use the queue
};

}  // namespace longhaul::cuda
