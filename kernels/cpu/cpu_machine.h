// What the streams of one CPU device share: faults, the link, the failure, the counters. Owned by the device; used by
// its streams' threads and the host.
#pragma once
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "kernels/cpu/cpu_device.h"

namespace longhaul {

/// The records of one event. Each is a generation of its own, so that a wait made between two records stays with the
/// first, whichever streams they are on and whichever passes first.
class CpuEventState {
 public:
  std::int64_t open();                   // a record was enqueued
  void pass(std::int64_t generation);    // and has been reached
  std::int64_t latest() const;           // what a wait made now refers to; 0: never recorded
  double wait(std::int64_t generation);  // the seconds stood there

 private:
  mutable std::mutex mutex_;
  std::condition_variable passed_;
  std::int64_t latest_ = 0;
  std::vector<std::int64_t> open_;  // not yet passed
};

/// Queued records and waits share the state, so the handle may go first.
struct CpuEvent : Event {
  std::shared_ptr<CpuEventState> state = std::make_shared<CpuEventState>();
};

class CpuMachine {
 public:
  using Clock = std::chrono::steady_clock;

  explicit CpuMachine(CpuDeviceOptions options);

  const CpuDeviceOptions& options() const { return options_; }
  bool drops(Edge edge) const { return !options_.drop_wait.empty() && edge.name == options_.drop_wait; }
  /// When a copy of `bytes` that starts now is across the link; copies of one direction cross it one after the other.
  Clock::time_point reserve_link(CopyKind kind, std::int64_t bytes);

  /// Counts one more copy or operator; throws when it is the one to fail.
  void begin_work();
  /// Keeps the exception being handled; of several the first. From then on no work runs.
  void fail(std::string_view stream);
  bool failed() const { return failed_; }
  void rethrow_failure() const;

  void enqueued() { pending_.fetch_add(1); }
  void done();
  void drain() const;  // stands until all that was enqueued is done

  /// update(DeviceCounters&) under the lock. Addresses within the maps stay.
  template <class Update>
  auto count(Update update) {
    std::lock_guard lock(mutex_);
    return update(counters_);
  }
  DeviceCounters counters() const;

 private:
  const CpuDeviceOptions options_;
  std::atomic<std::int64_t> pending_ = 0, begun_ = 0;
  std::atomic<bool> failed_ = false;
  mutable std::mutex mutex_;  // of what follows
  std::exception_ptr failure_;
  DeviceCounters counters_;
  std::array<Clock::time_point, 2> link_free_;  // host to device, device to host
};

}  // namespace longhaul
