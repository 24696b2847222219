#include "offload/decode_pass.h"

#include "kernels/base/error.h"
#include "offload/edges.h"

namespace longhaul {

DecodePass::DecodePass(Device& device, const Streams& streams, const KvBuffers& buffers, const LabelBuilder& labels,
                       std::vector<SlotState>& slots)
    : streams_(streams),
      buffers_(buffers),
      slots_(slots),
      labels_(labels),
      prefetcher_(device, streams, buffers),
      lists_(device, streams, buffers),
      row_written_(device.make_event()) {}

Event& DecodePass::flushed(const Span& span, std::int64_t row) {
  std::int64_t block = row / kAttendBlock % (buffers_.layout.ring_rows / kAttendBlock);
  return *state(span).flushed[static_cast<std::size_t>(block)];
}

void DecodePass::begin(std::span<const Span> spans) {
  const KvLayout& layout = buffers_.layout;
  spans_.assign(spans.begin(), spans.end());
  for (const Span& span : spans_) {
    check(span.tokens == 1 && span.pos < layout.capacity, "a decode step adds one row that fits its slot");
    SlotState& slot = state(span);
    if (slot.prefill_pending) {
      streams_.compute.wait(*slot.prefilled, edge::kPrefillStored);
      streams_.fetch.wait(*slot.prefilled, edge::kRowsStored);
      slot.prefill_pending = false;
      slot.fetchable = slot.stored;
    }
    std::int64_t window = layout.window_begin(span.pos + 1);
    if (window > std::max(slot.fetchable, layout.prefix_rows)) {  // a block has left the window since the last wait
      streams_.fetch.wait(flushed(span, window - 1), edge::kRowsStored);
      slot.fetchable = window;
    }
  }
  std::vector<TileFetch> tiles;
  if (!layout.all_resident())
    for (std::int64_t layer = 0; layer < buffers_.shape.layers; ++layer)
      for (const Span& span : buffers_.plan[static_cast<std::size_t>(layer)].selects ? std::span<const Span>{} : spans)
        for (std::int64_t row = layout.prefix_rows, end = layout.window_begin(span.pos + 1); row < end;
             row += layout.tile_rows)
          tiles.push_back({span.slot, layer, row, std::min(layout.tile_rows, end - row)});
  prefetcher_.begin(std::move(tiles));
}

void DecodePass::append(std::int64_t layer, std::span<const Span> spans, const void* qkv) {
  const std::int64_t width = buffers_.shape.qkv_width() * size_of(buffers_.shape.act);
  for (const Span& span : spans)
    append(layer, span, static_cast<const std::byte*>(qkv) + (span.row - spans[0].row) * width);
}

void DecodePass::append(std::int64_t layer, const Span& span, const void* qkv) {
  const KvTile row = in_ring(span.pos) ? buffers_.ring_tile(span.slot, layer, span.pos, 1)
                                       : buffers_.prefix_tile(span.slot, layer, span.pos, 1);
  if (in_ring(span.pos) && span.pos % kAttendBlock == 0)
    streams_.compute.wait(flushed(span, span.pos), edge::kRingFree);
  streams_.compute.launch(append_args(buffers_.shape, span, qkv, row));
  round_rows(streams_.compute, buffers_, row);
  labels_.append(span.slot, layer, row);
  if (!fills_block(span)) return;
  streams_.compute.record(*row_written_);
  streams_.store.wait(*row_written_, edge::kRowWritten);
  std::int64_t first = std::max({state(span).stored, buffers_.layout.prefix_rows, span.pos + 1 - kAttendBlock});
  std::int64_t rows = span.pos + 1 - first;
  copy_rows(streams_.store, buffers_.shape, buffers_.host_tile(span.slot, layer, first, rows),
            buffers_.ring_tile(span.slot, layer, first, rows), CopyKind::device_to_host);
}

void DecodePass::attend(std::int64_t layer, std::span<const Span> spans, const void* qkv, void* out,
                        QueryPredictor& predictor) {
  if (buffers_.plan[static_cast<std::size_t>(layer)].selects) {
    lists_.attend(layer, spans, qkv, out, predictor);
    return;
  }
  lists_.look_ahead(layer, spans, predictor);
  const KvShape& shape = buffers_.shape;
  for (const Span& span : spans) {
    const std::int64_t row = (span.row - spans[0].row) * size_of(shape.act);
    attend_all(layer, span, static_cast<const std::byte*>(qkv) + row * shape.qkv_width(),
               static_cast<std::byte*>(out) + row * shape.q_heads * shape.head_dim);
  }
}

void DecodePass::attend_all(std::int64_t layer, const Span& span, const void* qkv, void* out) {
  const KvLayout& layout = buffers_.layout;
  const std::int64_t n = span.pos + 1, window = std::min(layout.window_begin(n), n);
  bool fresh = true;
  auto attend = [&](const KvTile& tile) {
    streams_.compute.launch(attend_args(buffers_, span, qkv, tile, fresh));
    fresh = false;
  };
  if (layout.prefix_rows > 0) attend(buffers_.prefix_tile(span.slot, layer, 0, std::min(n, layout.prefix_rows)));
  for (std::int64_t row = layout.prefix_rows; row < window; row += layout.tile_rows) {
    attend(prefetcher_.acquire());
    prefetcher_.release();
  }
  if (in_ring(span.pos))
    for_each_piece(window, n, layout.ring_rows, [&](std::int64_t first, std::int64_t rows) {
      attend(buffers_.ring_tile(span.slot, layer, first, rows));
    });
  streams_.compute.launch(finish_args(buffers_, span, out));
}

void DecodePass::end() {
  for (const Span& span : spans_)
    if (fills_block(span)) {
      streams_.store.record(flushed(span, span.pos));
      state(span).stored = span.pos + 1;
    }
}

}  // namespace longhaul
