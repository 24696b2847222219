#include "offload/kv_cache.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "kernels/cpu/ops.h"
#include "offload/decode_pass.h"
#include "offload/edges.h"
#include "offload/label_builder.h"
#include "offload/prefill_pass.h"

namespace longhaul {

KvCache::KvCache(Device& device, const Streams& streams, const KvBuffers& buffers)
    : streams_(streams),
      buffers_(buffers),
      regions_(buffers.layout.store_rows),
      slots_(static_cast<std::size_t>(buffers.layout.sessions)) {
  for (SlotState& slot : slots_) {
    slot.prefilled = device.make_event();
    for (std::int64_t i = 0; i < buffers.layout.ring_rows / kAttendBlock; ++i)
      slot.flushed.push_back(device.make_event());
  }
  labels_ = std::make_unique<LabelBuilder>(device, streams, buffers);
  prefill_ = std::make_unique<PrefillPass>(device, streams, buffers, *labels_, slots_);
  decode_ = std::make_unique<DecodePass>(device, streams, buffers, slots_);
  // Poisoned or not, these are read before they are first written.
  const SelectionBuffers& selection = buffers.selection;
  selection.send_replay(streams.compute);
  if (std::ranges::count(buffers.shape.still, true) > 0)
    streams.compute.launch(FillArgs{reinterpret_cast<std::int32_t*>(buffers.no_turns), 0, buffers.shape.head_dim / 2});
  if (buffers.layout.list_rows == 0) return;
  streams.compute.launch(FillArgs{selection.nothing(), 0, selection.nothing_count()});
  streams.compute.launch(
      FillArgs{reinterpret_cast<std::int32_t*>(selection.tally(0)), 0, buffers.shape.layers * kTally * 2});
}

KvCache::~KvCache() = default;

bool KvCache::has_room(std::span<const std::int64_t> most) const {
  std::vector<std::int64_t> rows;
  for (const std::int64_t n : most) rows.push_back(buffers_.layout.host_rows_of(n));
  return regions_.has_room(rows);
}

void KvCache::release(std::int64_t slot) {
  SlotState& state = slots_[static_cast<std::size_t>(slot)];
  regions_.give_back(state.host_first, state.host_rows);
  state.host_rows = 0;
}

void KvCache::place(std::span<const Prompt> prompts) {
  for (const Prompt& prompt : prompts) release(prompt.slot);
  for (const Prompt& prompt : prompts) {
    SlotState& state = slots_[static_cast<std::size_t>(prompt.slot)];
    const std::int64_t rows = buffers_.layout.host_rows_of(prompt.most);
    const auto first = regions_.take(rows);
    check(first.has_value(), "the host store has room for a session that begins");
    state.host_first = *first;
    state.host_rows = rows;
  }
}

void KvCache::settle() { labels_->settle(); }

KvPass& KvCache::begin_prefill(std::span<const Prompt> prompts, std::int64_t shared, const float* inv_freq) {
  place(prompts);
  prefill_->begin(prompts, shared, inv_freq);
  return *prefill_;
}

void KvCache::begin_rest(std::int64_t layer, const Prompt& prompt) { prefill_->begin_rest(layer, prompt); }

void KvCache::fill(const Prompt& prompt, const float* inv_freq, void* qkv, std::int64_t chunk) {
  const KvShape& shape = buffers_.shape;
  const std::int64_t slot = prompt.slot, rows = prompt.rows;
  begin_prefill({&prompt, 1}, 0, inv_freq);
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    prefill_->begin_layer(layer);
    for (std::int64_t pos = 0; pos < rows; pos += chunk) {
      const Span span{.slot = slot, .pos = pos, .tokens = std::min(chunk, rows - pos), .row = 0};
      streams_.compute.launch(
          RandomFillArgs{.out = qkv,
                         .type = shape.act,
                         .count = span.tokens * shape.qkv_width(),
                         .seed = static_cast<std::uint64_t>((slot * shape.layers + layer) * rows + pos),
                         .spread = std::sqrt(3.0f)});  // a variance of 1
      prefill_->append(layer, {&span, 1}, qkv);
      // Whatever is random will do for older forms.
      prefill_->keep(layer, span, {qkv, shape.qkv_width(), {shape.chunk, qkv, 0}});
    }
    prefill_->end_layer(layer);
  }
  prefill_->end();
}

std::int64_t KvCache::layers_not_stored(Device& device, std::int64_t slot) const {
  check(buffers_.keeps_checksums, "the engine keeps checksums");
  const KvLayout& layout = buffers_.layout;
  const SlotState& state = slots_[static_cast<std::size_t>(slot)];
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(buffers_.shape.layers));
  auto arrived = device.make_event();
  streams_.compute.copy(
      {.dst = sums.data(), .src = buffers_.checksums, .width = std::ssize(sums) * 8, .kind = CopyKind::device_to_host});
  streams_.compute.record(*arrived);
  device.host_wait(*arrived, {"checksums"});
  device.host_wait(*state.prefilled, {"checksums"});
  std::int64_t wrong = 0;
  for (std::int64_t layer = 0; layer < buffers_.shape.layers; ++layer) {
    if (buffers_.plan[static_cast<std::size_t>(layer)].windowed) continue;
    std::uint64_t stored = 0;
    const std::int64_t rows = std::max<std::int64_t>(0, state.stored - layout.prefix_rows);
    cpu::checksum({.kv = buffers_.host_tile(state.host_first, layer, layout.prefix_rows, rows),
                   .kv_heads = buffers_.shape.kv_heads,
                   .row_bytes = buffers_.shape.row_bytes(),
                   .sum = &stored});
    wrong += stored != sums[static_cast<std::size_t>(layer)];
  }
  return wrong;
}

void KvCache::wait_stored(Device& device, std::int64_t slot) const {
  device.host_wait(*slots_[static_cast<std::size_t>(slot)].prefilled, edge::kRowsAdopted);
}

KvPass& KvCache::begin_decode(std::span<const Span> spans, bool ahead) {
  for (const Span& span : spans) labels_->settle(span.slot);
  decode_->begin(spans, ahead);
  return *decode_;
}

void KvCache::adopt(std::int64_t slot, const KvBuffers& from, std::int64_t from_slot, std::int64_t rows,
                    const float* inv_freq) {
  check(buffers_.layout.all_resident() && from.layout.all_resident(), "adopt: every row is on the device");
  check(from.shape.row_type == RowType::act, "adopt: the other engine keeps activations' rows");
  check(buffers_.shape.windowed == from.shape.windowed, "adopt: both engines keep all rows of the same layers");
  check(buffers_.shape.chunk == from.shape.chunk, "adopt: both engines turn their keys alike");
  const SelectionBuffers &ours = buffers_.selection, &theirs = from.selection;
  labels_->begin(slot, rows);
  for (std::int64_t layer = 0; layer < buffers_.shape.layers; ++layer) {
    if (buffers_.shape.is_windowed(layer)) {
      adopt_window(slot, layer, from, from_slot, rows);
      continue;
    }
    const KvTile tile = from.prefix_tile(from_slot, layer, 0, rows);
    keep_rows(streams_.compute, buffers_.shape, buffers_.prefix_tile(slot, layer, 0, rows), tile);
    labels_->make_room(layer);
    if (ours.keeps_queries()) {
      check(theirs.keeps_queries(), "adopt: the other engine keeps its queries");
      streams_.compute.copy({.dst = ours.queries(slot, layer),
                             .src = theirs.queries(from_slot, layer),
                             .width = std::min(rows, SelectionBuffers::kRecentQueries) * ours.query_bytes()});
      if (ours.older_bytes() > 0)
        streams_.compute.copy({.dst = ours.older_queries(slot, layer),
                               .src = theirs.older_queries(from_slot, layer),
                               .width = ours.older_bytes()});
    }
    if (ours.has_mass()) {
      check(theirs.has_mass(), "adopt: the other engine keeps its attention mass");
      streams_.compute.copy({.dst = ours.mass(slot, layer),
                             .src = theirs.mass(from_slot, layer),
                             .width = rows * 4,
                             .height = buffers_.shape.kv_heads,
                             .dst_pitch = buffers_.layout.capacity * 4,
                             .src_pitch = from.layout.capacity * 4});
    }
    labels_->build(slot, layer, tile, inv_freq);
  }
  labels_->settle();  // they are made of the other's rows
  labels_->keep_mass(slot);
}

void KvCache::adopt_window(std::int64_t slot, std::int64_t layer, const KvBuffers& from, std::int64_t from_slot,
                           std::int64_t rows) {
  const std::int64_t ours = buffers_.layout.window_rows, theirs = from.layout.window_rows;
  for_each_piece(std::max<std::int64_t>(0, rows - std::min(ours, theirs)), rows, ours, [&](auto begin, auto n) {
    for_each_piece(begin, begin + n, theirs, [&](auto first, auto count) {
      keep_rows(streams_.compute, buffers_.shape, buffers_.window_tile(slot, layer, first, count),
                from.window_tile(from_slot, layer, first, count));
    });
  });
}

void KvCache::rewind(std::int64_t slot) { labels_->restore_mass(slot); }

}  // namespace longhaul
