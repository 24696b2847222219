// The façade: where the KV rows of all sessions are, and the walks that write and read them. Owns no memory of its own;
// KvBuffers' arenas do. Driven by one host thread.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "offload/kv_buffers.h"
#include "offload/kv_pass.h"
#include "offload/row_regions.h"
#include "offload/streams.h"

namespace longhaul {

class LabelBuilder;
class PrefillPass;
class DecodePass;

/// What the store stream has done for one session slot; shared by the passes.
struct SlotState {
  std::unique_ptr<Event> prefilled;             // store: prefix, window and host rows of the prompt are in place
  std::vector<std::unique_ptr<Event>> flushed;  // [ring block] store: the block is on the host
  bool prefill_pending = false;                 // no stream has waited for `prefilled` yet
  std::int64_t stored = 0;                      // rows before this are on the host, or on their way
  std::int64_t fetchable = 0;                   // rows before this the fetch stream may read without another wait
  std::int64_t host_first = 0, host_rows = 0;   // its places in the host store
};

/// A prompt of `rows` tokens, the slot it goes into, and the rows that its session may come to have.
struct Prompt {
  std::int64_t slot, rows, most;
};

class KvCache {
 public:
  KvCache(Device& device, const Streams& streams, const KvBuffers& buffers);
  KvCache(KvCache&&) = delete;
  ~KvCache();

  /// Whether the host store has places for sessions that may come to have so many rows each.
  bool has_room(std::span<const std::int64_t> most) const;
  /// The session in `slot` has ended: others may take its places in the host store.
  void release(std::int64_t slot);
  /// Compute goes on when the labels of all prompts so far are made. Before another prompt, and its rope table, is
  /// sent.
  void settle();
  /// Prompts into their slots, replacing what those held; has_room() for them. One prompt: all its spans, layer by
  /// layer, then end(). Several whose first `shared` rows are alike, a whole number of chunks: in each layer those rows
  /// come first, as the first prompt's; then begin_rest(), the rest and end_layer() for each prompt; end() for all.
  /// inv_freq: [head_dim / 2] of their rope, on the device.
  KvPass& begin_prefill(std::span<const Prompt> prompts, std::int64_t shared, const float* inv_freq);
  void begin_rest(std::int64_t layer, const Prompt& prompt);
  /// A prompt with random keys, values and queries, as a model with random weights might have them, in the time that
  /// storing and labelling takes. qkv: room for `chunk` tokens.
  void fill(const Prompt& prompt, const float* inv_freq, void* qkv, std::int64_t chunk);
  /// The layers in which the host store does not hold what the last prefill, into `slot`, has computed. Waits for the
  /// store stream; with SelectionExtras::checksums.
  std::int64_t layers_not_stored(Device& device, std::int64_t slot) const;
  /// One token for each span. Spans must be attended in this order in each layer. Not `ahead`: no rows are foretold,
  /// but where they are what is attended.
  KvPass& begin_decode(std::span<const Span> spans, bool ahead);
  /// Waits until the rows of the last prefill into `slot` are in place, for another engine to adopt.
  void wait_stored(Device& device, std::int64_t slot) const;
  /// Makes `slot` what `from`'s slot `from_slot` is after a prefill of `rows` rows, with this cache's own labels. All
  /// rows of both are resident; `from` keeps the queries of all layers.
  void adopt(std::int64_t slot, const KvBuffers& from, std::int64_t from_slot, std::int64_t rows,
             const float* inv_freq);
  /// Forgets what decoding has added to the selection's state since the prompt's end.
  void rewind(std::int64_t slot);

 private:
  void adopt_window(std::int64_t slot, std::int64_t layer, const KvBuffers& from, std::int64_t from_slot,
                    std::int64_t rows);

  void place(std::span<const Prompt> prompts);

  Streams streams_;
  const KvBuffers& buffers_;
  RowRegions regions_;
  std::vector<SlotState> slots_;
  std::unique_ptr<LabelBuilder> labels_;
  std::unique_ptr<PrefillPass> prefill_;
  std::unique_ptr<DecodePass> decode_;
};

}  // namespace longhaul
