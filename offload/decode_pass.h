// One decode step: a new row for each session. A layer attends the rows that it selects (ListAttention), or all rows in
// ascending order: the resident prefix, the streamed tiles, the recent window; a windowed layer its ring. begin() does
// all that depends on lengths: the waits for earlier steps, and the spans that operators read on the device; where no
// tile is streamed, what follows is the same launches every step. A block of the window goes to the host store at the
// end of the step that fills it.
#pragma once
#include "offload/kv_cache.h"
#include "offload/list_attention.h"
#include "offload/prefetcher.h"

namespace longhaul {

class DecodePass final : public KvPass {
 public:
  DecodePass(Device& device, const Streams& streams, const KvBuffers& buffers, std::vector<SlotState>& slots);

  void begin(std::span<const Span> spans, bool ahead);
  void begin_layer(std::int64_t) override {}
  void append(std::int64_t layer, std::span<const Span> spans, const void* qkv) override;
  void attend(std::int64_t layer, std::span<const Span> spans, const Queries& q, void* out,
              QueryPredictor& predictor) override;
  void end_layer(std::int64_t layer) override;
  void end() override;

 private:
  void wait_for_store(const Span& span);
  void send_spans();
  void fetch_tiles();
  /// Of the resident prefix, to be changed to what is attended.
  AttendStepArgs attention(std::int64_t layer, const Queries& q) const;
  void attend_window(std::int64_t layer, const Queries& q);
  void attend_all(std::int64_t layer, const Queries& q);
  void attend_tiles(std::int64_t place, AttendStepArgs attention);
  SlotState& state(const Span& span) { return slots_[static_cast<std::size_t>(span.slot)]; }
  Event& flushed(const Span& span, std::int64_t row);
  bool in_ring(std::int64_t row) const { return row >= buffers_.layout.prefix_rows; }
  bool fills_block(const Span& span) const { return in_ring(span.pos) && (span.pos + 1) % kAttendBlock == 0; }

  Streams streams_;
  const KvBuffers& buffers_;
  std::vector<SlotState>& slots_;
  Prefetcher prefetcher_;
  ListAttention lists_;
  std::unique_ptr<Event> row_written_;
  std::vector<Span> spans_;
  StepBatch batch_{};
};

}  // namespace longhaul
