#include "offload/list_attention.h"

#include "offload/edges.h"
#include "offload/kv_cache.h"

namespace longhaul {
namespace {

const std::byte* query(const KvShape& shape, const Span& first, const Span& span, const void* qkv, std::int64_t width) {
  return static_cast<const std::byte*>(qkv) + (span.row - first.row) * width * size_of(shape.act);
}

}  // namespace

ListAttention::ListAttention(Device& device, const Streams& streams, const KvBuffers& buffers)
    : streams_(streams),
      buffers_(buffers),
      listed_(device.make_event()),
      landed_(device.make_event()),
      ahead_listed_(device.make_event()),
      ahead_landed_{device.make_event(), device.make_event()} {}

Regions ListAttention::regions(std::int64_t layer, std::int64_t i, const Span& span) const {
  const KvLayout& layout = buffers_.layout;
  Regions regions{.prefix = buffers_.prefix_tile(span.slot, layer, 0, layout.prefix_rows)};
  if (!moves()) return regions;
  regions.ring = buffers_.ring.tile(buffers_.outer(span.slot, layer), 0, 0, layout.ring_rows);
  regions.cache = buffers_.selection.cache(span.slot, layer);
  regions.staging = buffers_.selection.staging(layer, i);
  return regions;
}

void ListAttention::locate(std::int64_t layer, std::int64_t i, const Span& span, RowList selected, bool ahead) {
  const KvLayout& layout = buffers_.layout;
  const SelectionBuffers& selection = buffers_.selection;
  // Ahead, what is not on the device is what to stage; nothing is staged yet.
  const bool staged = !ahead && plan(layer).predicted;
  streams_.compute.launch(LocateArgs{.selected = selected,
                                     .prefix_rows = layout.prefix_rows,
                                     .ring_first = layout.window_begin(span.pos + 1),
                                     .ring_rows = layout.ring_rows,
                                     .slot_of = selection.slot_of(span.slot, layer),
                                     .slot_stride = layout.capacity,
                                     .staged = staged ? selection.staged(layer, i) : RowList{},
                                     .missing = ahead ? selection.staged(layer, i) : selection.missing(i),
                                     .places = ahead ? nullptr : selection.places(i),
                                     .tally = ahead ? nullptr : selection.tally(layer),
                                     .kv_heads = buffers_.shape.kv_heads});
}

void ListAttention::gather(std::int64_t layer, std::int64_t i, const Span& span, bool ahead) {
  const KvLayout& layout = buffers_.layout;
  const SelectionBuffers& selection = buffers_.selection;
  const bool after_staged = !ahead && plan(layer).predicted;
  streams_.fetch.launch(GatherArgs{.rows = ahead ? selection.staged(layer, i) : selection.missing(i),
                                   .src = buffers_.host_tile(span.slot, layer, layout.prefix_rows, layout.host_rows()),
                                   .dst = selection.staging(layer, i),
                                   .dst_first = after_staged ? selection.staged(layer, i).count : nullptr,
                                   .kv_heads = buffers_.shape.kv_heads,
                                   .row_bytes = buffers_.shape.row_bytes()});
}

AttendListArgs ListAttention::list_args(std::int64_t layer, std::int64_t i, const Span& span, const void* q) const {
  const KvShape& shape = buffers_.shape;
  const SelectionBuffers& selection = buffers_.selection;
  return {.q = q,
          .rows = listed(layer, i),
          .places = moves() ? selection.places(i) : nullptr,
          .regions = regions(layer, i, span),
          .landed = !moves()                ? nullptr
                    : plan(layer).predicted ? selection.staged(layer, i).count
                                            : selection.nothing(),
          .scores = selection.scores(i),
          .state = buffers_.state,
          .act = shape.act,
          .q_heads = shape.q_heads,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .scale = shape.scale()};
}

void ListAttention::retain(std::int64_t layer, std::int64_t i, const Span& span) {
  const KvLayout& layout = buffers_.layout;
  const SelectionBuffers& selection = buffers_.selection;
  if (layout.cache_rows == 0) return;
  streams_.compute.launch(RetainArgs{.rows = listed(layer, i),
                                     .places = selection.places(i),
                                     .regions = regions(layer, i, span),
                                     .begin = layout.prefix_rows,
                                     .end = layout.window_begin(span.pos + 1),
                                     .slot_of = selection.slot_of(span.slot, layer),
                                     .slot_stride = layout.capacity,
                                     .row_of = selection.row_of(span.slot, layer),
                                     .used_at = selection.used_at(span.slot, layer),
                                     .now = static_cast<std::int32_t>(span.pos),
                                     .kv_heads = buffers_.shape.kv_heads,
                                     .row_bytes = buffers_.shape.row_bytes()});
}

void ListAttention::look_ahead(std::int64_t layer, std::span<const Span> spans, QueryPredictor& predictor) {
  const KvShape& shape = buffers_.shape;
  const SelectionBuffers& selection = buffers_.selection;
  const std::int64_t next = layer + 1;
  if (next >= shape.layers || !plan(next).predicted) return;
  if (!moves() && plan(next).corrected && !selection.judges()) return;  // a hint that nobody takes
  const void* predicted = predictor.predict(next);
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const auto n = static_cast<std::int64_t>(i);
    const RowList rows = selection.predicted(next, n);
    streams_.compute.launch(select_args(buffers_, spans[i].slot, next, spans[i].pos + 1,
                                        query(shape, spans[0], spans[i], predicted, shape.q_heads * shape.head_dim),
                                        rows));
    if (moves()) locate(next, n, spans[i], rows, /*ahead=*/true);
  }
  if (!moves()) return;
  streams_.compute.record(*ahead_listed_);
  streams_.fetch.wait(*ahead_listed_, edge::kPredictionListed);
  for (std::size_t i = 0; i < spans.size(); ++i) gather(next, static_cast<std::int64_t>(i), spans[i], /*ahead=*/true);
  streams_.fetch.record(*ahead_landed_[static_cast<std::size_t>(next % 2)]);
}

void ListAttention::attend(std::int64_t layer, std::span<const Span> spans, const void* qkv, void* out,
                           QueryPredictor& predictor) {
  const KvShape& shape = buffers_.shape;
  const SelectionBuffers& selection = buffers_.selection;
  const bool corrected = plan(layer).corrected;
  auto q = [&](const Span& span) { return query(shape, spans[0], span, qkv, shape.qkv_width()); };
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const auto n = static_cast<std::int64_t>(i);
    if (corrected)
      streams_.compute.launch(
          select_args(buffers_, spans[i].slot, layer, spans[i].pos + 1, q(spans[i]), selection.selected(n)));
    if (moves()) locate(layer, n, spans[i], listed(layer, n), /*ahead=*/false);
  }
  const bool fetches = moves() && corrected;  // unrepaired, all that is attended has been prefetched
  if (fetches) {
    streams_.compute.record(*listed_);
    streams_.fetch.wait(*listed_, edge::kMissesListed);
    for (std::size_t i = 0; i < spans.size(); ++i)
      gather(layer, static_cast<std::int64_t>(i), spans[i], /*ahead=*/false);
    streams_.fetch.record(*landed_);
  }
  look_ahead(layer, spans, predictor);
  if (moves() && plan(layer).predicted)
    streams_.compute.wait(*ahead_landed_[static_cast<std::size_t>(layer % 2)], edge::kPrefetchLanded);
  if (fetches) {
    for (std::size_t i = 0; i < spans.size(); ++i)
      streams_.compute.launch(ScoreListArgs{list_args(layer, static_cast<std::int64_t>(i), spans[i], q(spans[i]))});
    streams_.compute.wait(*landed_, edge::kMissesLanded);
  }
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const auto n = static_cast<std::int64_t>(i);
    const Span& span = spans[i];
    const AttendListArgs list = list_args(layer, n, span, q(span));
    streams_.compute.launch(FinishListArgs{.list = list, .scored = fetches});
    if (selection.has_mass() && buffers_.policy.select == Select::heavy)
      streams_.compute.launch(AddListMassArgs{.rows = list.rows,
                                              .scores = list.scores,
                                              .state = list.state,
                                              .mass = selection.mass(span.slot, layer),
                                              .mass_stride = buffers_.layout.capacity,
                                              .q_heads = shape.q_heads,
                                              .kv_heads = shape.kv_heads,
                                              .head_dim = shape.head_dim,
                                              .n = span.pos + 1});
    streams_.compute.launch(finish_args(buffers_, span,
                                        static_cast<std::byte*>(out) + (span.row - spans[0].row) * shape.q_heads *
                                                                           shape.head_dim * size_of(shape.act)));
    if (moves()) retain(layer, n, span);
    if (selection.judges()) judge(layer, n, span, q(span));
  }
}

void ListAttention::judge(std::int64_t layer, std::int64_t i, const Span& span, const void* q) {
  const KvShape& shape = buffers_.shape;
  const SelectionBuffers& selection = buffers_.selection;
  for (bool of_prediction : {false, true}) {
    if (of_prediction && !plan(layer).predicted) continue;
    streams_.compute.launch(JudgeArgs{.q = q,
                                      .kv = buffers_.prefix_tile(span.slot, layer, 0, span.pos + 1),
                                      .rows = of_prediction ? selection.predicted(layer, i) : listed(layer, i),
                                      .out = selection.quality(of_prediction, i, layer),
                                      .act = shape.act,
                                      .q_heads = shape.q_heads,
                                      .kv_heads = shape.kv_heads,
                                      .head_dim = shape.head_dim,
                                      .scale = shape.scale()});
  }
}

}  // namespace longhaul
