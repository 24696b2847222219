// The hidden states of a prefill, a chunk at a time, from the layer before to the layer after. They stand on the
// device, or, spilled, in pinned host memory: then a chunk comes through one of two slots on the fetch stream and
// leaves on the store stream, both behind the compute of its neighbours.
#pragma once
#include <array>
#include <memory>

#include "offload/streams.h"
#include "runtime/model/activations.h"

namespace longhaul {

class HiddenStates {
 public:
  HiddenStates(Device& device, const Streams& streams, const ModelConfig& config, const Activations& act);

  /// A prompt that goes through each layer in `chunks` chunks, in order.
  void begin(std::int64_t chunks);
  /// Where the next chunk, `tokens` rows from `pos` on, is when compute comes to it; in layer 0 where it is to be
  /// embedded.
  std::byte* arrive(std::int64_t layer, std::int64_t pos, std::int64_t tokens);
  /// Compute has been given all its work on the chunk that arrived last. In the last layer it stays where it is, until
  /// the chunk after next arrives.
  void leave(std::int64_t layer, std::int64_t pos, std::int64_t tokens);

 private:
  std::size_t slot() const { return static_cast<std::size_t>(arrived_ % 2); }
  std::byte* place() const { return act_.hidden_row(arrived_ % 2 * act_.chunk, config_.hidden); }
  std::int64_t bytes(std::int64_t rows) const { return rows * config_.hidden * size_of(act_.act); }

  Streams streams_;
  const ModelConfig& config_;
  const Activations& act_;
  std::array<std::unique_ptr<Event>, 2> landed_;  // by slot: fetch, the chunk is there
  std::array<std::unique_ptr<Event>, 2> left_;    // by slot: store, it is on the host; in the last layer compute
  std::unique_ptr<Event> written_;
  std::int64_t chunks_ = 1, arrived_ = 0;
};

}  // namespace longhaul
