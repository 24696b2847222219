// Brings the streamed layers' weights over the link, on a stream of its own, behind the compute of the layers before.
// Two slots, two parts a layer (Weights): as soon as a layer's q, k and v are computed for all that walks through it,
// the first part of the layer after next may come, and the layer before has left its slot for the second part of the
// next. A walk begins with its first streamed layer in slot 0, so that decode steps can be recorded.
//
// Packed layers, streamed or not, are expanded by compute itself, once a walk, when it comes to a part (or look-ahead
// does), and again when it goes on after another walk: that needs no edge but those that say when the part has landed.
//
// No edge guards a walk's first loads: the host has waited for the last walk's tokens, or for it to pause.
#pragma once
#include <array>
#include <memory>

#include "runtime/model/weights.h"

namespace longhaul {

/// Where a walk has come to: what it needs to go on after another walk has had the slots.
struct WeightWalk {
  std::int64_t chunks = 1;  // of each layer
  std::int64_t parts = 0;   // that are on their way or have come
  std::int64_t lost = 0;    // parts before this one, from `parts` on, have lost their places to another walk
  std::int64_t done = 0;    // chunks of the layer that compute is in
};

class WeightStream {
 public:
  WeightStream(Device& device, Stream& compute, const Weights& weights);

  /// Null where every layer is on the device.
  Stream* stream() const { return stream_.get(); }
  /// A walk through all layers, in each of which `chunks` chunks are computed. Starts what the slots have room for.
  void begin(std::int64_t chunks);
  const WeightWalk& walk() const { return walk_; }
  /// Goes on with a walk whose next chunk is in `layer`, after another has had the slots: what was in them is brought
  /// again when the first of it is needed. The host has waited for what compute did in either.
  void resume(const WeightWalk& walk, std::int64_t layer);
  /// Compute waits for a part of a layer that it comes to, and expands it if that has not been done.
  void need(std::int64_t layer, WeightPart part);
  /// The same of the first part of a layer after the one that it is in.
  void need_ahead(std::int64_t layer);
  /// A chunk's q, k and v have been enqueued.
  void projected(std::int64_t layer);

 private:
  Event& landed(std::int64_t n, WeightPart part) const {
    return *landed_[static_cast<std::size_t>(n % Weights::kSlots * 2 + static_cast<std::int64_t>(part))];
  }
  void load_next();
  void arrive(std::int64_t layer, WeightPart part, Edge edge);
  void forget_expanded();

  Stream& compute_;
  const Weights& weights_;
  std::unique_ptr<Stream> stream_;
  std::array<std::unique_ptr<Event>, 2 * Weights::kSlots> landed_;  // by slot and part
  std::unique_ptr<Event> left_;
  WeightWalk walk_;
  std::array<std::int64_t, 2> projections_{};  // the layers that are expanded, even and odd; -1: none
  std::int64_t rest_ = -1;                     // likewise
};

}  // namespace longhaul
