// Prefill, layers outermost: the rows of one layer stand in a device buffer while they are attended, and leave on the
// store stream behind compute, chunk by chunk: when a chunk of the next layer takes their places, they have long gone.
// When every row is resident they are written to their place at once.
#pragma once
#include <array>
#include <vector>

#include "offload/kv_cache.h"
#include "offload/label_builder.h"

namespace longhaul {

class PrefillPass final : public KvPass {
 public:
  PrefillPass(Device& device, const Streams& streams, const KvBuffers& buffers, LabelBuilder& labels,
              std::vector<SlotState>& slots);

  /// As KvCache::begin_prefill has it. inv_freq: [head_dim / 2] of the prompts' rope, on the device.
  void begin(std::span<const Prompt> prompts, std::int64_t shared, const float* inv_freq);
  /// From here on to end_layer(), what is appended belongs to `prompt` alone.
  void begin_rest(std::int64_t layer, const Prompt& prompt);
  void begin_layer(std::int64_t layer) override;
  void append(std::int64_t layer, std::span<const Span> spans, const void* qkv) override;
  void attend(std::int64_t layer, std::span<const Span> spans, const Queries& q, void* out, QueryPredictor&) override;
  /// In place of attend where the queries' attention is not asked for: what they leave behind for selection. Behind the
  /// last rows of a layer its labels are begun.
  void keep(std::int64_t layer, const Span& span, const Queries& q);
  void end_layer(std::int64_t layer) override;
  void end() override;

 private:
  const LayerPlan& plan(std::int64_t layer) const { return buffers_.plan[static_cast<std::size_t>(layer)]; }
  KvTile rows(std::int64_t layer, std::int64_t first, std::int64_t count) const;
  void sum_rows(std::int64_t layer);
  void wait_for_all_stored();
  void wait_for_places(std::int64_t layer, std::int64_t first);
  void store_rows(std::int64_t layer, std::int64_t begin, std::int64_t end);

  Streams streams_;
  const KvBuffers& buffers_;
  LabelBuilder& labels_;
  std::vector<SlotState>& slots_;
  std::unique_ptr<Event> chunk_written_;
  std::array<std::unique_ptr<Event>, 2> stored_;  // of the last two chunks
  std::vector<Prompt> prompts_;
  std::int64_t slot_ = 0, rows_ = 0;  // of the prompt that rows are of
  std::int64_t shared_ = 0;           // rows that prompts share; 0: there is one prompt
  bool in_shared_ = false;            // these are being walked through
  std::int64_t appended_ = 0;         // chunks, of all layers and prompts
  std::int64_t chunks_ = 0;           // of a layer; while in the first, so far
  const float* inv_freq_ = nullptr;
};

}  // namespace longhaul
