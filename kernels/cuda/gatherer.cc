#include "kernels/cuda/gatherer.h"

#include <algorithm>

#include "kernels/base/host_memory.h"
#include "kernels/cuda/allocate.h"

namespace longhaul::cuda {
namespace {

GatherQueue* make_queue() {
  void* queue = allocate_device(sizeof(GatherQueue));
  check(cudaMemset(queue, 0, sizeof(GatherQueue)));
  check(cudaDeviceSynchronize());  // streams do not wait for the default one
  return static_cast<GatherQueue*>(queue);
}

}  // namespace

Gatherer::Gatherer(const GatherChoice& choice, int host_node) : queue_(make_queue()) {
  constexpr int kSlots = 4 * kHostBlocks;
  if (choice.route != GatherRoute::zero_copy) {
    const int cores = processors_on_node(host_node);
    host_.emplace(choice.host_threads > 0 ? choice.host_threads : std::max(1, cores - 2), kSlots, host_node);
  }
  const double share = choice.route == GatherRoute::zero_copy ? 0
                       : choice.route == GatherRoute::host    ? 1
                                                              : choice.host_share;
  routes_ = {.host_share = static_cast<float>(share),
             .device_blocks = kDeviceBlocks,
             .ring = host_ ? host_->ring() : GatherRing{},
             .queue = queue_.get(),
             .bytes = bytes_.get()};
}

void Gatherer::run(const GatherArgs& a, int* fault, cudaStream_t stream) {
  if (last_ != nullptr && last_ != stream) {
    check(cudaEventRecord(handed_over_.get(), last_));
    check(cudaStreamWaitEvent(stream, handed_over_.get()));
  }
  last_ = stream;
  gather(a, routes_, fault, stream);
}

}  // namespace longhaul::cuda
