// Decode steps as recordings: steps of as many sessions that look ahead, or of as many that do not, enqueue the same
// work, which the device then takes by one call.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/device.h"

namespace longhaul {

class RecordedSteps {
 public:
  /// Of these streams; where steps are not alike, or the device cannot, every step is enqueued anew.
  RecordedSteps(Device& device, std::vector<Stream*> streams, bool alike)
      : device_(device), streams_(std::move(streams)), alike_(alike) {}

  /// A step of `sessions` sessions. The first is enqueued, so that what a device sets up at first use is not in the
  /// recording; the second is recorded; from then on it is replayed.
  void run(std::int64_t sessions, bool ahead, const std::function<void()>& enqueue) {
    if (!alike_) return enqueue();
    auto [step, is_new] = steps_.try_emplace({sessions, ahead});
    if (is_new) return enqueue();
    if (step->second == nullptr) step->second = device_.record(streams_, enqueue);
    if (step->second == nullptr) return enqueue();
    step->second->replay();
  }

 private:
  Device& device_;
  std::vector<Stream*> streams_;
  bool alike_;
  std::map<std::pair<std::int64_t, bool>, std::unique_ptr<Recording>> steps_;
};

}  // namespace longhaul
