// Two staging slots on the device and the two edges that guard each.
#pragma once
#include <array>
#include <memory>

#include "kernels/device.h"

namespace longhaul {

class StagingRing {
 public:
  struct Slot {
    std::int64_t index;
    std::unique_ptr<Event> ready;  // recorded by fetch: the tile has landed
    std::unique_ptr<Event> free;   // recorded by compute: the tile has been attended
  };

  explicit StagingRing(Device& device)
      : slots_{Slot{0, device.make_event(), device.make_event()}, Slot{1, device.make_event(), device.make_event()}} {}

  /// The slot of the n-th tile ever staged.
  Slot& of(std::int64_t tile) { return slots_[static_cast<std::size_t>(tile) % slots_.size()]; }
  std::int64_t size() const { return static_cast<std::int64_t>(slots_.size()); }

 private:
  std::array<Slot, 2> slots_;
};

}  // namespace longhaul
