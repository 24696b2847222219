#include "offload/decode_pass.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "offload/edges.h"

namespace longhaul {

DecodePass::DecodePass(Device& device, const Streams& streams, const KvBuffers& buffers, std::vector<SlotState>& slots)
    : streams_(streams),
      buffers_(buffers),
      slots_(slots),
      prefetcher_(device, streams, buffers),
      lists_(device, streams, buffers),
      row_written_(device.make_event()) {}

Event& DecodePass::flushed(const Span& span, std::int64_t row) {
  std::int64_t block = row / kAttendBlock % (buffers_.layout.ring_rows / kAttendBlock);
  return *state(span).flushed[static_cast<std::size_t>(block)];
}

void DecodePass::begin(std::span<const Span> spans, bool ahead) {
  spans_.assign(spans.begin(), spans.end());
  batch_ = {buffers_.spans, std::ssize(spans_), buffers_.layout.capacity};
  lists_.begin(ahead);
  for (const Span& span : spans_) wait_for_store(span);
  send_spans();
  fetch_tiles();
}

void DecodePass::wait_for_store(const Span& span) {
  const KvLayout& layout = buffers_.layout;
  check(span.tokens == 1 && span.pos < layout.capacity, "a decode step adds one row that fits its slot");
  SlotState& slot = state(span);
  if (slot.prefill_pending) {
    streams_.compute.wait(*slot.prefilled, edge::kPrefillStored);
    streams_.fetch.wait(*slot.prefilled, edge::kRowsStored);
    slot.prefill_pending = false;
    slot.fetchable = slot.stored;
  }
  const std::int64_t window = layout.window_begin(span.pos + 1);
  // A block has left the window since the last wait.
  if (!layout.all_resident() && window > std::max(slot.fetchable, layout.prefix_rows)) {
    streams_.fetch.wait(flushed(span, window - 1), edge::kRowsStored);
    slot.fetchable = window;
  }
  if (in_ring(span.pos) && span.pos % kAttendBlock == 0)
    streams_.compute.wait(flushed(span, span.pos), edge::kRingFree);
}

void DecodePass::send_spans() {
  for (std::size_t i = 0; i < spans_.size(); ++i) {
    const std::int64_t n = spans_[i].pos + 1;
    check(spans_[i].row == spans_[0].row + static_cast<std::int64_t>(i), "a step's tokens are one run of rows");
    buffers_.host_spans[i] = step_span(buffers_.policy, spans_[i].slot, n, std::min(n, buffers_.layout.window_begin(n)),
                                       state(spans_[i]).host_first);
  }
  streams_.compute.copy({.dst = buffers_.spans,
                         .src = buffers_.host_spans,
                         .width = batch_.count * static_cast<std::int64_t>(sizeof(StepSpan)),
                         .kind = CopyKind::host_to_device});
}

void DecodePass::fetch_tiles() {
  const KvLayout& layout = buffers_.layout;
  std::vector<TileFetch> tiles;
  if (!layout.all_resident())
    for (std::int64_t layer = 0; layer < buffers_.shape.layers; ++layer) {
      const LayerPlan& plan = buffers_.plan[static_cast<std::size_t>(layer)];
      if (plan.selects || plan.windowed) continue;
      for (const Span& span : spans_)
        for (std::int64_t row = layout.prefix_rows, end = layout.window_begin(span.pos + 1); row < end;
             row += layout.tile_rows)
          tiles.push_back({state(span).host_first, layer, row, std::min(layout.tile_rows, end - row)});
    }
  prefetcher_.begin(std::move(tiles));
}

void DecodePass::append(std::int64_t layer, std::span<const Span>, const void* qkv) {
  const KvShape& shape = buffers_.shape;
  const LayerPlan& plan = buffers_.plan[static_cast<std::size_t>(layer)];
  lists_.join();
  streams_.compute.launch(AppendStepArgs{.qkv = qkv,
                                         .act = shape.act,
                                         .batch = batch_,
                                         .prefix = plan.windowed ? KvTile{} : buffers_.prefixes(layer),
                                         .ring = plan.windowed ? buffers_.windows(layer) : buffers_.rings(layer),
                                         .labels = plan.labelled ? buffers_.selection.labels(0, layer) : LabelTile{},
                                         .q_heads = shape.q_heads,
                                         .kv_heads = shape.kv_heads,
                                         .head_dim = shape.head_dim});
}

void DecodePass::attend(std::int64_t layer, std::span<const Span>, const Queries& q, void* out,
                        QueryPredictor& predictor) {
  if (buffers_.plan[static_cast<std::size_t>(layer)].selects) {
    lists_.attend(layer, batch_, q, out, predictor);
    return;
  }
  lists_.look_ahead(layer, batch_, predictor);
  lists_.prefetch(layer, batch_);
  buffers_.plan[static_cast<std::size_t>(layer)].windowed ? attend_window(layer, q) : attend_all(layer, q);
  streams_.compute.launch(FinishArgs{.state = buffers_.state,
                                     .out = out,
                                     .act = buffers_.shape.act,
                                     .tokens = batch_.count,
                                     .heads = buffers_.shape.q_heads,
                                     .head_dim = buffers_.shape.head_dim});
}

AttendStepArgs DecodePass::attention(std::int64_t layer, const Queries& q) const {
  const KvShape& shape = buffers_.shape;
  return {.q = q.q,
          .q_stride = q.stride,
          .batch = batch_,
          .kv = buffers_.prefixes(layer),
          .from = StepRows::tile,
          .state = buffers_.state,
          .splits = buffers_.splits,
          .fresh = true,  // also where no row is resident: every state begins empty
          .act = shape.act,
          .q_heads = shape.q_heads,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .scale = shape.scale(),
          .forms = q.forms};
}

void DecodePass::attend_window(std::int64_t layer, const Queries& q) {
  AttendStepArgs attention = this->attention(layer, q);
  attention.kv = buffers_.windows(layer);
  attention.from = StepRows::ring;
  attention.window = buffers_.shape.window;
  streams_.compute.launch(attention);
}

void DecodePass::attend_all(std::int64_t layer, const Queries& q) {
  AttendStepArgs attention = this->attention(layer, q);
  streams_.compute.launch(attention);
  if (buffers_.layout.all_resident()) return;
  attention.fresh = false;
  for (std::size_t i = 0; i < spans_.size(); ++i) attend_tiles(static_cast<std::int64_t>(i), attention);
  attention.kv = buffers_.rings(layer);
  attention.from = StepRows::ring;
  streams_.compute.launch(attention);
}

void DecodePass::attend_tiles(std::int64_t place, AttendStepArgs attention) {
  const KvLayout& layout = buffers_.layout;
  const std::int64_t heads = place * attention.q_heads;
  attention.batch.spans += place;
  attention.batch.count = 1;
  attention.q = static_cast<const std::byte*>(attention.q) + place * attention.q_stride * size_of(attention.act);
  attention.forms.older =
      static_cast<const std::byte*>(attention.forms.older) + heads * attention.head_dim * size_of(attention.act);
  attention.state.o += heads * attention.head_dim;
  attention.state.m += heads;
  attention.state.l += heads;
  const std::int64_t end = layout.window_begin(spans_[static_cast<std::size_t>(place)].pos + 1);
  for (std::int64_t row = layout.prefix_rows; row < end; row += layout.tile_rows) {
    attention.kv = prefetcher_.acquire();
    streams_.compute.launch(attention);
    prefetcher_.release();
  }
}

void DecodePass::end_layer(std::int64_t layer) {
  if (layer + 1 == buffers_.shape.layers) lists_.join();
}

void DecodePass::end() {
  const KvShape& shape = buffers_.shape;
  if (std::ranges::none_of(spans_, [&](const Span& span) { return fills_block(span); })) return;
  streams_.compute.record(*row_written_);
  streams_.store.wait(*row_written_, edge::kRowWritten);
  for (const Span& span : spans_) {
    if (!fills_block(span)) continue;
    SlotState& slot = state(span);
    std::int64_t& stored = slot.stored;
    const std::int64_t n = span.pos + 1, first = std::max({stored, buffers_.layout.prefix_rows, n - kAttendBlock});
    check(n <= buffers_.layout.prefix_rows + slot.host_rows, "a session has no more rows than it has asked for");
    copy_rows(streams_.store, shape, buffers_.host_tile(slot.host_first, 0, first, n - first),
              buffers_.ring_tile(span.slot, 0, first, n - first), CopyKind::device_to_host, buffers_.full());
    streams_.store.record(flushed(span, span.pos));
    stored = n;
  }
}

}  // namespace longhaul
