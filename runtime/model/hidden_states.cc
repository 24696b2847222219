#include "runtime/model/hidden_states.h"

#include "offload/edges.h"

namespace longhaul {

HiddenStates::HiddenStates(Device& device, const Streams& streams, const ModelConfig& config, const Activations& act)
    : streams_(streams),
      config_(config),
      act_(act),
      landed_{device.make_event(), device.make_event()},
      left_{device.make_event(), device.make_event()},
      written_(device.make_event()) {}

void HiddenStates::begin(std::int64_t chunks) {
  chunks_ = chunks;
  arrived_ = -1;
}

std::byte* HiddenStates::arrive(std::int64_t layer, std::int64_t pos, std::int64_t tokens) {
  if (!act_.spilled()) return act_.hidden_row(pos, config_.hidden);
  ++arrived_;
  if (layer == 0) {
    streams_.compute.wait(*left_[slot()], edge::kHiddenFree);
    return place();
  }
  // What left the slot last left after this chunk did, but where there is one chunk: that was in the other slot.
  streams_.fetch.wait(*left_[chunks_ == 1 ? 1 - slot() : slot()], edge::kHiddenStored);
  streams_.fetch.copy(
      {.dst = place(), .src = act_.host_hidden + bytes(pos), .width = bytes(tokens), .kind = CopyKind::host_to_device});
  streams_.fetch.record(*landed_[slot()]);
  streams_.compute.wait(*landed_[slot()], edge::kHiddenLanded);
  return place();
}

void HiddenStates::leave(std::int64_t layer, std::int64_t pos, std::int64_t tokens) {
  if (!act_.spilled()) return;
  if (layer + 1 == config_.layers) return streams_.compute.record(*left_[slot()]);
  streams_.compute.record(*written_);
  streams_.store.wait(*written_, edge::kHiddenWritten);
  streams_.store.copy(
      {.dst = act_.host_hidden + bytes(pos), .src = place(), .width = bytes(tokens), .kind = CopyKind::device_to_host});
  streams_.store.record(*left_[slot()]);
}

}  // namespace longhaul
