#include "offload/prefill_pass.h"

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
  return buffers_.layout.all_resident() ? buffers_.prefix_tile(slot_, layer, first, count)
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
  const bool leaves = !buffers_.layout.all_resident();
  if (leaves) wait_for_places(layer, span.pos);
  if (layer == 0) ++chunks_;
  streams_.compute.launch(AppendArgs{.qkv = qkv,
                                     .dst = tile,
                                     .act = shape.act,
                                     .tokens = span.tokens,
                                     .q_heads = shape.q_heads,
                                     .kv_heads = shape.kv_heads,
                                     .head_dim = shape.head_dim});
  round_rows(streams_.compute, buffers_, tile);
  if (!leaves) return;
  streams_.compute.record(*chunk_written_);
  streams_.store.wait(*chunk_written_, edge::kChunkWritten);
  store_rows(layer, span.pos, span.pos + span.tokens);
  streams_.store.record(*stored_[static_cast<std::size_t>(appended_++ % 2)]);
}

void PrefillPass::store_rows(std::int64_t layer, std::int64_t begin, std::int64_t end) {
  const KvLayout& layout = buffers_.layout;
  auto store = [&](std::int64_t first, std::int64_t last, CopyKind kind, auto place) {
    if (first < last)
      copy_rows(streams_.store, buffers_.shape, place(first, last - first), rows(layer, first, last - first), kind);
  };
  store(begin, std::min(end, layout.prefix_rows), CopyKind::device_to_device,
        [&](auto first, auto n) { return buffers_.prefix_tile(slot_, layer, first, n); });
  store(std::max(begin, layout.prefix_rows), end, CopyKind::device_to_host,
        [&](auto first, auto n) { return buffers_.host_tile(slot_, layer, first, n); });
  for_each_piece(std::max(begin, layout.window_begin(rows_)), end, layout.ring_rows, [&](auto first, auto n) {
    store(first, first + n, CopyKind::device_to_device,
          [&](auto f, auto k) { return buffers_.ring_tile(slot_, layer, f, k); });
  });
}

void PrefillPass::attend(std::int64_t layer, std::span<const Span> spans, const void* qkv, void* out, QueryPredictor&) {
  const Span& span = spans[0];
  const KvTile seen = rows(layer, 0, span.pos + span.tokens);
  const KvShape& shape = buffers_.shape;
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
                                     .scale = shape.scale()});
  keep(layer, span, qkv);
  labels_.add_mass(layer, span, qkv, seen);
}

void PrefillPass::keep(std::int64_t layer, const Span& span, const void* qkv) {
  labels_.keep_queries(layer, span, qkv, rows_);
}

/// On the compute stream, from the buffer that the store stream copies: what has arrived is compared with it.
void PrefillPass::sum_rows(std::int64_t layer) {
  const KvLayout& layout = buffers_.layout;
  if (!buffers_.keeps_checksums) return;
  std::uint64_t* sum = buffers_.checksums + layer;
  streams_.compute.launch(FillArgs{reinterpret_cast<std::int32_t*>(sum), 0, 2});
  if (rows_ > layout.prefix_rows)
    streams_.compute.launch(ChecksumArgs{.kv = rows(layer, layout.prefix_rows, rows_ - layout.prefix_rows),
                                         .kv_heads = buffers_.shape.kv_heads,
                                         .row_bytes = buffers_.shape.row_bytes(),
                                         .sum = sum});
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
