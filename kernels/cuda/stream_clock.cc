#include "kernels/cuda/stream_clock.h"

#include <utility>

namespace longhaul::cuda {

TimerHandle StreamClock::take() {
  if (free_.empty()) return {};
  TimerHandle timer = std::move(free_.back());
  free_.pop_back();
  return timer;
}

void StreamClock::collect(DeviceCounters& counters) {
  std::deque<Pair> later;  // of other streams, which may be behind
  for (Pair& pair : open_) {
    const cudaError_t passed = cudaEventQuery(pair.to.get());
    if (passed == cudaErrorNotReady) {
      later.push_back(std::move(pair));
      continue;
    }
    check(passed);
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, pair.from.get(), pair.to.get()));
    (pair.as == Counts::busy ? counters.busy_seconds : counters.stall_seconds)[pair.name] += milliseconds * 1e-3;
    free_.push_back(std::move(pair.from));
    free_.push_back(std::move(pair.to));
  }
  open_ = std::move(later);
}

}  // namespace longhaul::cuda
