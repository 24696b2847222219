// How long streams work and stand: pairs of events around copies and waits, read when both have passed. Owned by the
// device; off unless asked for, because every pair costs some microseconds of the stream.
#pragma once
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cuda/handles.h"
#include "kernels/device.h"

namespace longhaul::cuda {

class StreamClock {
 public:
  enum class Counts { busy, stall };

  void turn(bool on) { on_ = on; }
  bool on() const { return on_; }
  /// Calls `enqueue` with an event before it and one after it, on `stream`.
  template <class Enqueue>
  void around(cudaStream_t stream, Counts as, std::string_view name, const Enqueue& enqueue) {
    if (!on_) return enqueue();
    Pair pair{take(), take(), as, std::string(name)};
    check(cudaEventRecord(pair.from.get(), stream));
    enqueue();
    check(cudaEventRecord(pair.to.get(), stream));
    open_.push_back(std::move(pair));
  }
  /// Adds up the pairs that have passed.
  void collect(DeviceCounters& counters);

 private:
  struct Pair {
    TimerHandle from, to;
    Counts as;
    std::string name;
  };
  TimerHandle take();

  bool on_ = false;
  std::deque<Pair> open_;
  std::vector<TimerHandle> free_;
};

}  // namespace longhaul::cuda
