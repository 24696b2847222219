#include "offload/prefill_pass.h"

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "offload/edges.h"

namespace longhaul {

PrefillPass::PrefillPass(Device& device, const Streams& streams, const KvBuffers& buffers, const LabelBuilder& labels,
                         std::vector<SlotState>& slots)
    : streams_(streams),
      buffers_(buffers),
      labels_(labels),
      slots_(slots),
      chunk_written_(device.make_event()),
      stored_{device.make_event(), device.make_event()} {}

void PrefillPass::begin(std::int64_t slot, std::int64_t rows, const float* inv_freq) {
  check(rows >= 1 && rows <= buffers_.layout.capacity, "a prompt must fit its slot");
  slot_ = slot;
  rows_ = rows;
  inv_freq_ = inv_freq;
  chunks_ = 0;
  labels_.begin(slot, rows);
}

KvTile PrefillPass::rows(std::int64_t layer, std::int64_t first, std::int64_t count) const {
  return buffers_.prefills_in_place() ? buffers_.prefix_tile(slot_, layer, first, count)
                                      : buffers_.prefill.tile(0, first, first, count);
}

/// The chunk before last, whatever layer it was of, left after the one in these places did; but not where a layer has
/// one chunk, or where the places are those of the prompt before.
void PrefillPass::wait_for_places(std::int64_t layer, std::int64_t first) {
  const bool last = layer == 0 ? first == 0 : chunks_ == 1;
  const std::int64_t chunk = appended_ + (last ? 1 : 0);  // of the same parity
  streams_.compute.wait(*stored_[static_cast<std::size_t>(chunk % 2)], edge::kLayerFree);
}

void PrefillPass::append(std::int64_t layer, std::span<const Span> spans, const void* qkv) {
  const Span& span = spans[0];  // a prefill is one session's
  const KvTile tile = rows(layer, span.pos, span.tokens);
  const KvShape& shape = buffers_.shape;
  const bool leaves = !buffers_.prefills_in_place();
  if (leaves) wait_for_places(layer, span.pos);
  if (layer == 0) ++chunks_;
  streams_.compute.launch(AppendArgs{.qkv = qkv,
                                     .dst = tile,
                                     .act = shape.act,
                                     .tokens = span.tokens,
                                     .q_heads = shape.q_heads,
                                     .kv_heads = shape.kv_heads,
                                     .head_dim = shape.head_dim});
  if (!leaves) return;
  streams_.compute.record(*chunk_written_);
  streams_.store.wait(*chunk_written_, edge::kChunkWritten);
  store_rows(layer, span.pos, span.pos + span.tokens);
  streams_.store.record(*stored_[static_cast<std::size_t>(appended_++ % 2)]);
}

void PrefillPass::store_rows(std::int64_t layer, std::int64_t begin, std::int64_t end) {
  const KvLayout& layout = buffers_.layout;
  const KvShape& shape = buffers_.shape;
  auto keep = [&](const KvTile& to) {
    const KvTile from = rows(layer, to.first, to.rows);
    if (shape.row_type == RowType::act) copy_rows(streams_.store, shape, to, from, CopyKind::device_to_device);
    else keep_rows(streams_.store, shape, to, from);
  };
  if (plan(layer).windowed)
    return for_each_piece(std::max(begin, rows_ - layout.window_rows), end, layout.window_rows,
                          [&](auto first, auto n) { keep(buffers_.window_tile(slot_, layer, first, n)); });
  if (const std::int64_t last = std::min(end, layout.prefix_rows); begin < last)
    keep(buffers_.prefix_tile(slot_, layer, begin, last - begin));
  if (const std::int64_t first = std::max(begin, layout.prefix_rows); first < end) {
    KvTile sent = rows(layer, first, end - first);
    if (buffers_.stores_codes()) keep(sent = buffers_.codes.tile(0, 0, first, end - first));
    copy_rows(streams_.store, shape, buffers_.host_tile(slot_, layer, first, end - first), sent,
              CopyKind::device_to_host);
  }
  for_each_piece(std::max(begin, layout.window_begin(rows_)), end, layout.ring_rows,
                 [&](auto first, auto n) { keep(buffers_.ring_tile(slot_, layer, first, n)); });
}

void PrefillPass::attend(std::int64_t layer, std::span<const Span> spans, const void* qkv, void* out, QueryPredictor&) {
  const Span& span = spans[0];
  const KvShape& shape = buffers_.shape;
  const std::int64_t window = plan(layer).windowed ? shape.window : 0, end = span.pos + span.tokens;
  const std::int64_t first =
      window > 0 ? round_down(std::max<std::int64_t>(0, span.pos + 1 - window), kAttendBlock) : 0;
  const KvTile seen = rows(layer, first, end - first);
  streams_.compute.launch(AttendArgs{.q = qkv,
                                     .q_stride = shape.qkv_width(),
                                     .kv = seen,
                                     .state = buffers_.state,
                                     .out = out,
                                     .act = shape.act,
                                     .tokens = span.tokens,
                                     .q_heads = shape.q_heads,
                                     .kv_heads = shape.kv_heads,
                                     .head_dim = shape.head_dim,
                                     .q_pos = span.pos,
                                     .scale = shape.scale(),
                                     .window = window});
  keep(layer, span, qkv);
  labels_.add_mass(layer, span, qkv, seen);
}

void PrefillPass::keep(std::int64_t layer, const Span& span, const void* qkv) {
  labels_.keep_queries(layer, span, qkv, rows_);
}

/// On the compute stream, from the buffer that the store stream copies: what has arrived is compared with it.
void PrefillPass::sum_rows(std::int64_t layer) {
  const KvLayout& layout = buffers_.layout;
  if (!buffers_.keeps_checksums || plan(layer).windowed) return;
  std::uint64_t* sum = buffers_.checksums + layer;
  streams_.compute.launch(FillArgs{reinterpret_cast<std::int32_t*>(sum), 0, 2});
  for_each_piece(layout.prefix_rows, rows_, buffers_.chunk, [&](auto first, auto n) {
    KvTile sent = rows(layer, first, n);
    if (buffers_.stores_codes()) {
      const KvTile codes = buffers_.codes.tile(1, 0, first, n);
      keep_rows(streams_.compute, buffers_.shape, codes, sent);
      sent = codes;
    }
    streams_.compute.launch(ChecksumArgs{
        .kv = sent, .kv_heads = buffers_.shape.kv_heads, .row_bytes = buffers_.shape.row_bytes(), .sum = sum});
  });
}

void PrefillPass::end_layer(std::int64_t layer) {
  labels_.build(slot_, layer, rows(layer, 0, rows_), inv_freq_);
  sum_rows(layer);
}

void PrefillPass::end() {
  labels_.keep_mass(slot_);
  SlotState& slot = slots_[static_cast<std::size_t>(slot_)];
  streams_.store.record(*slot.prefilled);
  slot.prefill_pending = true;
  slot.stored = rows_;
  slot.fetchable = 0;
}

}  // namespace longhaul
