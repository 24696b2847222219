#include "offload/label_builder.h"

#include <algorithm>
#include <utility>

#include "offload/edges.h"

namespace longhaul {
namespace {

LabelFit fit_of(Labels labels) {
  switch (labels) {
    case Labels::document:
      return LabelFit::document;
    case Labels::fitted:
      return LabelFit::moments;
    case Labels::q:
      return LabelFit::q;
    case Labels::k:
      return LabelFit::k;
    case Labels::qk:
      return LabelFit::qk;
    case Labels::abs:
      return LabelFit::abs;
    case Labels::rms:
      return LabelFit::rms;
    case Labels::pairs:
      return LabelFit::pairs;
    case Labels::exact:
      break;
  }
  return LabelFit::given;
}

std::int64_t first_of_last(std::int64_t rows, std::int64_t most) { return std::max<std::int64_t>(0, rows - most); }

}  // namespace

LabelBuilder::LabelBuilder(Device& device, const Streams& streams, const KvBuffers& buffers)
    : compute_(streams.compute),
      stream_(streams.labels),
      buffers_(buffers),
      appended_(device.make_event()),
      labelled_{device.make_event(), device.make_event()} {}

void LabelBuilder::settle() {
  for (const Begun& begun : std::exchange(begun_, {})) finish(begun, edge::kLabelsMade);
}

void LabelBuilder::settle(std::int64_t slot) {
  if (std::ranges::count(begun_, slot, &Begun::slot) > 0) settle();
}

void LabelBuilder::make_room(std::int64_t layer) {
  const auto shares = [&](const Begun& begun) { return (layer - begun.layer) % buffers_.layers_held == 0; };
  for (const Begun& begun : begun_)
    if (shares(begun)) finish(begun, edge::kLayerLabelled);
  std::erase_if(begun_, shares);
}

void LabelBuilder::finish(const Begun& begun, Edge edge) {
  if (plan(begun.layer).labelled) compute_.wait(labelled(begun.layer), edge);
  if (plan(begun.layer).selects && warms()) warm(begun.slot, begun.layer, begun.tile);
}

void LabelBuilder::begin(std::int64_t slot, std::int64_t rows) const {
  const SelectionBuffers& selection = buffers_.selection;
  if (!warms()) return;
  // The oldest first, so that the newest query's rows are the last to go. What leaves the window before the first token
  // is kept too.
  const std::int64_t queries = warming(rows), ring_first = buffers_.layout.window_begin(rows + 1);
  for (std::int64_t i = 0; i < queries; ++i)
    selection.host_warm_spans(slot)[i] = step_span(buffers_.policy, slot, rows - queries + 1 + i, ring_first);
  compute_.copy({.dst = selection.warm_spans(slot),
                 .src = selection.host_warm_spans(slot),
                 .width = queries * static_cast<std::int64_t>(sizeof(StepSpan)),
                 .kind = CopyKind::host_to_device});
}

void LabelBuilder::keep_queries(std::int64_t layer, const Span& span, const Queries& q, std::int64_t rows) const {
  const SelectionBuffers& selection = buffers_.selection;
  if (plan(layer).windowed) return;
  keep_queries(selection.queries(span.slot, layer), selection.older_queries(span.slot, layer), span, q, rows);
}

void LabelBuilder::keep_shared_queries(const Span& span, const Queries& q, std::int64_t shared) const {
  const SelectionBuffers& selection = buffers_.selection;
  keep_queries(selection.shared_queries(), selection.shared_older_queries(), span, q, shared);
}

void LabelBuilder::take_shared_queries(std::int64_t slot, std::int64_t layer, std::int64_t rows,
                                       std::int64_t shared) const {
  const SelectionBuffers& selection = buffers_.selection;
  if (!selection.keeps_queries() || plan(layer).windowed) return;
  const std::int64_t bytes = selection.query_bytes();
  const auto take = [&](std::byte* to, const std::byte* from, std::int64_t most) {
    const std::int64_t first = first_of_last(rows, most);
    if (first < shared)
      compute_.copy(
          {.dst = to, .src = from + (first - first_of_last(shared, most)) * bytes, .width = (shared - first) * bytes});
  };
  take(selection.queries(slot, layer), selection.shared_queries(), SelectionBuffers::kRecentQueries);
  for_each_older([&](std::int64_t at, std::int64_t) {
    take(selection.older_queries(slot, layer) + at, selection.shared_older_queries() + at,
         SelectionBuffers::kWarmingQueries);
  });
}

void LabelBuilder::keep_queries(std::byte* to, std::byte* older, const Span& span, const Queries& q,
                                std::int64_t rows) const {
  const SelectionBuffers& selection = buffers_.selection;
  if (!selection.keeps_queries()) return;
  const std::int64_t bytes = selection.query_bytes();
  const auto keep = [&](std::byte* into, const void* queries, std::int64_t pitch, std::int64_t most) {
    const std::int64_t first = first_of_last(rows, most);
    const std::int64_t from = std::max(span.pos, first), count = span.pos + span.tokens - from;
    if (count <= 0) return;
    compute_.copy({.dst = into + (from - first) * bytes,
                   .src = static_cast<const std::byte*>(queries) + (from - span.pos) * pitch,
                   .width = bytes,
                   .height = count,
                   .dst_pitch = bytes,
                   .src_pitch = pitch});
  };
  const std::int64_t width = size_of(buffers_.shape.act);
  keep(to, q.q, q.stride * width, SelectionBuffers::kRecentQueries);
  for_each_older([&](std::int64_t at, std::int64_t form) {
    const std::byte* from = static_cast<const std::byte*>(q.forms.older) + form * q.forms.form_stride * width;
    keep(older + at, from, bytes, SelectionBuffers::kWarmingQueries);
  });
}

void LabelBuilder::add_mass(std::int64_t layer, const Span& span, const Queries& q, const KvTile& seen) const {
  const SelectionBuffers& selection = buffers_.selection;
  if (!selection.has_mass() || plan(layer).windowed) return;
  float* mass = selection.mass(span.slot, layer);
  if (span.pos == 0) compute_.launch(FillArgs{reinterpret_cast<std::int32_t*>(mass), 0, selection.mass_floats()});
  compute_.launch(AddMassArgs{.q = q.q,
                              .q_stride = q.stride,
                              .kv = seen,
                              .state = buffers_.state,
                              .mass = mass,
                              .mass_stride = buffers_.layout.capacity,
                              .act = buffers_.shape.act,
                              .tokens = span.tokens,
                              .q_heads = buffers_.shape.q_heads,
                              .kv_heads = buffers_.shape.kv_heads,
                              .head_dim = buffers_.shape.head_dim,
                              .q_pos = span.pos,
                              .scale = buffers_.shape.scale(),
                              .forms = q.forms});
}

void LabelBuilder::build(std::int64_t slot, std::int64_t layer, const KvTile& tile, const float* inv_freq) {
  if (plan(layer).labelled) {
    compute_.record(*appended_);
    stream_.wait(*appended_, edge::kLayerAppended);
    label(slot, layer, tile, inv_freq);
    stream_.record(labelled(layer));
  }
  begun_.push_back({slot, layer, tile});
}

void LabelBuilder::label(std::int64_t slot, std::int64_t layer, const KvTile& tile, const float* inv_freq) const {
  const KvShape& shape = buffers_.shape;
  const std::int64_t queries = std::min(tile.rows, SelectionBuffers::kRecentQueries);
  const LabelTile labels = buffers_.selection.labels(slot, layer);
  const LabelFit fit = buffers_.selection.given_bases() ? LabelFit::given : fit_of(buffers_.policy.labels);
  const bool fits = fit != LabelFit::given;
  stream_.launch(
      FitLabelsArgs{.kv = tile,
                    .q = buffers_.selection.queries(slot, layer),
                    .queries = fits ? queries : 0,
                    .q_pos = tile.rows - queries,
                    .inv_freq = shape.is_still(layer) ? buffers_.no_turns : inv_freq,
                    .target = tile.rows,
                    .targets = std::clamp<std::int64_t>(buffers_.layout.capacity - tile.rows, 1, kTargets),
                    .labels = labels,
                    .fit = fit,
                    .share = static_cast<double>(buffers_.policy.budget(tile.rows)) / static_cast<double>(tile.rows),
                    .act = shape.act,
                    .q_heads = shape.q_heads,
                    .kv_heads = shape.kv_heads,
                    .head_dim = shape.head_dim,
                    .scale = shape.scale(),
                    .host = buffers_.selection.fit_host(),
                    .weighs_tail = buffers_.selection.mean_values(slot, layer) != nullptr,
                    .sinks = buffers_.policy.sinks,
                    .window = buffers_.policy.window,
                    .chunk = shape.chunk,
                    .reach = shape.reach});
  stream_.launch(LabelRowsArgs{
      .kv = tile, .labels = labels, .act = shape.act, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim});
  if (float* mean = buffers_.selection.mean_values(slot, layer); mean != nullptr)
    stream_.launch(MeanValuesArgs{
        .kv = tile, .out = mean, .act = shape.act, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim});
}

void LabelBuilder::keep_mass(std::int64_t slot) const {
  const SelectionBuffers& selection = buffers_.selection;
  if (buffers_.policy.select != Select::heavy) return;
  compute_.copy({.dst = selection.prompt_mass(slot, 0),
                 .src = selection.mass(slot, 0),
                 .width = selection.mass_session_floats() * 4});
}

void LabelBuilder::restore_mass(std::int64_t slot) const {
  const SelectionBuffers& selection = buffers_.selection;
  if (buffers_.policy.select != Select::heavy) return;
  compute_.copy({.dst = selection.mass(slot, 0),
                 .src = selection.prompt_mass(slot, 0),
                 .width = selection.mass_session_floats() * 4});
}

void LabelBuilder::warm(std::int64_t slot, std::int64_t layer, const KvTile& tile) const {
  const KvShape& shape = buffers_.shape;
  const KvLayout& layout = buffers_.layout;
  const SelectionBuffers& selection = buffers_.selection;
  const ResidentSet own = selection.resident(layer, slot);
  const KvTile cache = selection.cache(layer);
  const bool keeps = layout.cache_rows > 0;
  if (float* sums = selection.sums(slot, layer); sums != nullptr)  // nothing competes in a short prompt
    compute_.launch(FillArgs{reinterpret_cast<std::int32_t*>(sums), 0, shape.q_heads});
  if (keeps) {
    compute_.launch(FillArgs{own.slot_of, -1, shape.kv_heads * layout.capacity});
    compute_.launch(FillArgs{own.row_of, -1, shape.kv_heads * layout.cache_rows});
    compute_.launch(FillArgs{own.used_at, -1, shape.kv_heads * layout.cache_rows});
  }
  const std::int64_t kept = std::min(tile.rows, SelectionBuffers::kRecentQueries), queries = warming(tile.rows);
  const std::int64_t older = std::min(tile.rows, SelectionBuffers::kWarmingQueries) - queries,
                     bytes = selection.query_bytes();
  for (std::int64_t i = 0; i < queries; ++i) {
    const StepBatch one{selection.warm_spans(slot) + i, 1, layout.capacity};
    const Queries q{selection.queries(slot, layer) + (kept - queries + i) * bytes,
                    shape.q_heads * shape.head_dim,
                    {shape.chunk, selection.older_queries(slot, layer) + (older + i) * bytes,
                     SelectionBuffers::kWarmingQueries * shape.q_heads * shape.head_dim}};
    select_rows(compute_, buffers_, layer, one, q, /*foretold=*/false, selection.selected());
    if (!keeps) continue;
    compute_.launch(RetainArgs{.batch = one,
                               .rows = selection.selected(),
                               .places = nullptr,
                               .regions = {.prefix = {}, .ring = {}, .cache = cache, .staging = tile},
                               .begin = layout.prefix_rows,
                               .resident = selection.resident(layer),
                               .kv_heads = shape.kv_heads,
                               .row_bytes = 0});
  }
  if (!keeps) return;
  KvTile slots = cache;
  slots.data += slot * cache.session_stride;
  keep_rows(compute_, shape, slots, tile, own.row_of);
}

}  // namespace longhaul
