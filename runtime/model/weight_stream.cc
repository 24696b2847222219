#include "runtime/model/weight_stream.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "offload/edges.h"

namespace longhaul {

WeightStream::WeightStream(Device& device, Stream& compute, const Weights& weights)
    : compute_(compute), weights_(weights), left_(device.make_event()) {
  if (weights.streamed() > 0) stream_ = device.make_stream("weights");
  for (auto& event : landed_) event = device.make_event();
}

void WeightStream::begin(std::int64_t chunks) {
  walk_ = {.chunks = chunks};
  forget_expanded();
  for (std::int64_t i = 0; i < 2 * Weights::kSlots; ++i) load_next();
}

void WeightStream::resume(const WeightWalk& walk, std::int64_t layer) {
  walk_ = walk;
  walk_.lost = std::max(walk.parts, walk.lost);
  walk_.parts = std::min(2 * std::max<std::int64_t>(layer - weights_.first_streamed(), 0), walk_.lost);
  forget_expanded();  // a step that is replayed has expanded layers and marked none
}

void WeightStream::forget_expanded() {
  projections_.fill(-1);
  rest_ = -1;
}

void WeightStream::load_next() {
  if (walk_.parts == 2 * weights_.streamed()) return;
  const std::int64_t n = walk_.parts / 2;
  const auto part = static_cast<WeightPart>(walk_.parts % 2);
  stream_->copy(weights_.copy_of(n, part));
  stream_->record(landed(n, part));
  ++walk_.parts;
}

void WeightStream::arrive(std::int64_t layer, WeightPart part, Edge edge) {
  const std::int64_t n = layer - weights_.first_streamed();
  if (n >= 0) {
    while (walk_.parts < walk_.lost) load_next();
    compute_.wait(landed(n, part), edge);
  }
  std::int64_t& is = part == WeightPart::projection ? projections_[static_cast<std::size_t>(layer % 2)] : rest_;
  if (is == layer) return;
  is = layer;
  weights_.expand(compute_, layer, part);
}

void WeightStream::need(std::int64_t layer, WeightPart part) { arrive(layer, part, edge::kWeightsLanded); }

void WeightStream::need_ahead(std::int64_t layer) { arrive(layer, WeightPart::projection, edge::kNextWeightsLanded); }

void WeightStream::projected(std::int64_t layer) {
  const std::int64_t n = layer - weights_.first_streamed();
  if (n < 0) return;
  const bool first = walk_.done == 0, last = ++walk_.done == walk_.chunks;
  if (last) walk_.done = 0;
  // With the first chunk's the layer before is behind compute; a walk begins with both slots full.
  const bool rest = first && n > 0;
  if (!rest && !last) return;
  compute_.record(*left_);
  stream_->wait(*left_, edge::kWeightsFree);
  for (int i = 0; i < rest + last; ++i) load_next();
}

}  // namespace longhaul
