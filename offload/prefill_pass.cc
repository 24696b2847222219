#include "offload/prefill_pass.h"

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "offload/edges.h"

namespace longhaul {

PrefillPass::PrefillPass(Device& device, const Streams& streams, const KvBuffers& buffers, LabelBuilder& labels,
                         std::vector<SlotState>& slots)
    : streams_(streams),
      buffers_(buffers),
      labels_(labels),
      slots_(slots),
      chunk_written_(device.make_event()),
      stored_{device.make_event(), device.make_event()} {}

void PrefillPass::begin(std::span<const Prompt> prompts, std::int64_t shared, const float* inv_freq) {
  check(prompts.size() == 1 || !buffers_.selection.has_mass(), "attention mass is of one prompt");
  prompts_.assign(prompts.begin(), prompts.end());
  slot_ = prompts[0].slot;
  rows_ = prompts[0].rows;
  shared_ = shared;
  in_shared_ = false;
  inv_freq_ = inv_freq;
  chunks_ = 0;
  for (const Prompt& prompt : prompts) {
    check(prompt.rows > shared && prompt.rows <= buffers_.layout.capacity, "a prompt must fit its slot");
    labels_.begin(prompt.slot, prompt.rows);
  }
}

void PrefillPass::begin_layer(std::int64_t layer) {
  labels_.make_room(layer);
  if (shared_ == 0) return;
  slot_ = prompts_[0].slot;
  rows_ = prompts_[0].rows;
  in_shared_ = true;
  wait_for_all_stored();
}

/// The shared rows are in the buffer, or in the first prompt's prefix; they go to where the prompt's own would have.
void PrefillPass::begin_rest(std::int64_t layer, const Prompt& prompt) {
  in_shared_ = false;
  slot_ = prompt.slot;
  rows_ = prompt.rows;
  wait_for_all_stored();
  labels_.make_room(layer);  // what is made of the prompt before, too
  if (const Prompt& first = prompts_[0]; prompt.slot != first.slot) {
    if (buffers_.prefills_in_place()) {
      copy_rows(streams_.compute, buffers_.shape, buffers_.prefix_tile(slot_, layer, 0, shared_),
                buffers_.prefix_tile(first.slot, layer, 0, shared_), CopyKind::device_to_device);
    } else {
      for_each_piece(0, shared_, buffers_.chunk, [&](auto from, auto n) { store_rows(layer, from, from + n); });
      streams_.store.record(*stored_[static_cast<std::size_t>(appended_++ % 2)]);
    }
  }
  labels_.take_shared_queries(slot_, layer, rows_, shared_);
}

/// All rows that were appended have left: their places can be taken.
void PrefillPass::wait_for_all_stored() {
  if (appended_ > 0) streams_.compute.wait(*stored_[static_cast<std::size_t>((appended_ - 1) % 2)], edge::kLayerFree);
}

KvTile PrefillPass::rows(std::int64_t layer, std::int64_t first, std::int64_t count) const {
  return buffers_.prefills_in_place() ? buffers_.prefix_tile(slot_, layer, first, count)
                                      : buffers_.prefill.tile(layer % buffers_.layers_held, first, first, count);
}

/// The chunk before last, whatever layer it was of, left after the one in these places did; but not where a layer has
/// one chunk, or where the places are those of the prompt before.
void PrefillPass::wait_for_places(std::int64_t layer, std::int64_t first) {
  const bool last = layer == 0 ? first == 0 : chunks_ == 1 && buffers_.layers_held == 1;
  const std::int64_t chunk = appended_ + (last ? 1 : 0);  // of the same parity
  streams_.compute.wait(*stored_[static_cast<std::size_t>(chunk % 2)], edge::kLayerFree);
}

void PrefillPass::append(std::int64_t layer, std::span<const Span> spans, const void* qkv) {
  const Span& span = spans[0];  // a prefill is one session's
  const KvTile tile = rows(layer, span.pos, span.tokens);
  const KvShape& shape = buffers_.shape;
  const bool leaves = !buffers_.prefills_in_place();
  if (leaves && shared_ == 0) wait_for_places(layer, span.pos);
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
    const std::int64_t host_first = slots_[static_cast<std::size_t>(slot_)].host_first;
    copy_rows(streams_.store, shape, buffers_.host_tile(host_first, layer, first, end - first), sent,
              CopyKind::device_to_host);
  }
  for_each_piece(std::max(begin, layout.window_begin(rows_)), end, layout.ring_rows,
                 [&](auto first, auto n) { keep(buffers_.ring_tile(slot_, layer, first, n)); });
}

void PrefillPass::attend(std::int64_t layer, std::span<const Span> spans, const Queries& q, void* out,
                         QueryPredictor&) {
  const Span& span = spans[0];
  const KvShape& shape = buffers_.shape;
  const std::int64_t window = plan(layer).windowed ? shape.window : 0, end = span.pos + span.tokens;
  const std::int64_t first =
      window > 0 ? round_down(std::max<std::int64_t>(0, span.pos + 1 - window), kAttendBlock) : 0;
  const KvTile seen = rows(layer, first, end - first);
  keep(layer, span, q);
  streams_.compute.launch(AttendArgs{.q = q.q,
                                     .q_stride = q.stride,
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
                                     .window = window,
                                     .forms = q.forms});
  labels_.add_mass(layer, span, q, seen);
}

void PrefillPass::keep(std::int64_t layer, const Span& span, const Queries& q) {
  if (in_shared_) labels_.keep_shared_queries(span, q, shared_);
  else labels_.keep_queries(layer, span, q, rows_);
  if (!in_shared_ && span.pos + span.tokens == rows_) labels_.build(slot_, layer, rows(layer, 0, rows_), inv_freq_);
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

void PrefillPass::end_layer(std::int64_t layer) { sum_rows(layer); }

void PrefillPass::end() {
  for (const Prompt& prompt : prompts_) {
    labels_.keep_mass(prompt.slot);
    SlotState& slot = slots_[static_cast<std::size_t>(prompt.slot)];
    streams_.store.record(*slot.prefilled);
    slot.prefill_pending = true;
    slot.stored = prompt.rows;
    slot.fetchable = 0;
  }
}

}  // namespace longhaul
