#include "offload/label_builder.h"

#include <algorithm>

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

}  // namespace

void LabelBuilder::keep_queries(std::int64_t layer, const Span& span, const void* qkv, std::int64_t rows) const {
  const SelectionBuffers& selection = buffers_.selection;
  if (!selection.keeps_queries()) return;
  const std::int64_t first = std::max<std::int64_t>(0, rows - SelectionBuffers::kRecentQueries);
  const std::int64_t from = std::max(span.pos, first), count = span.pos + span.tokens - from;
  if (count <= 0) return;
  const std::int64_t pitch = buffers_.shape.qkv_width() * size_of(buffers_.shape.act);
  compute_.copy({.dst = selection.queries(span.slot, layer) + (from - first) * selection.query_bytes(),
                 .src = static_cast<const std::byte*>(qkv) + (from - span.pos) * pitch,
                 .width = selection.query_bytes(),
                 .height = count,
                 .dst_pitch = selection.query_bytes(),
                 .src_pitch = pitch});
}

void LabelBuilder::add_mass(std::int64_t layer, const Span& span, const void* qkv, const KvTile& seen) const {
  const SelectionBuffers& selection = buffers_.selection;
  if (!selection.has_mass()) return;
  float* mass = selection.mass(span.slot, layer);
  if (span.pos == 0) compute_.launch(FillArgs{reinterpret_cast<std::int32_t*>(mass), 0, selection.mass_floats()});
  compute_.launch(AddMassArgs{.q = qkv,
                              .q_stride = buffers_.shape.qkv_width(),
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
                              .scale = buffers_.shape.scale()});
}

void LabelBuilder::build(std::int64_t slot, std::int64_t layer, const KvTile& tile, const float* inv_freq) const {
  const KvShape& shape = buffers_.shape;
  const LayerPlan& plan = buffers_.plan[static_cast<std::size_t>(layer)];
  if (plan.labelled) {
    const std::int64_t queries = std::min(tile.rows, SelectionBuffers::kRecentQueries);
    const LabelTile labels = buffers_.selection.labels(slot, layer);
    const LabelFit fit = buffers_.selection.given_bases() ? LabelFit::given : fit_of(buffers_.policy.labels);
    const bool fits = fit != LabelFit::given;
    compute_.launch(
        FitLabelsArgs{.kv = tile,
                      .q = buffers_.selection.queries(slot, layer),
                      .queries = fits ? queries : 0,
                      .q_pos = tile.rows - queries,
                      .inv_freq = inv_freq,
                      .target = tile.rows,
                      .targets = std::clamp<std::int64_t>(buffers_.layout.capacity - tile.rows, 1, kTargets),
                      .labels = labels,
                      .fit = fit,
                      .share = static_cast<double>(buffers_.policy.budget(tile.rows)) / static_cast<double>(tile.rows),
                      .act = shape.act,
                      .q_heads = shape.q_heads,
                      .kv_heads = shape.kv_heads,
                      .head_dim = shape.head_dim,
                      .scale = shape.scale()});
    append(slot, layer, tile);
  }
  if (plan.selects && buffers_.layout.cache_rows > 0) warm(slot, layer, tile);
}

void LabelBuilder::keep_mass(std::int64_t slot) const {
  const SelectionBuffers& selection = buffers_.selection;
  if (buffers_.policy.select != Select::heavy) return;
  compute_.copy({.dst = selection.prompt_mass(slot, 0),
                 .src = selection.mass(slot, 0),
                 .width = selection.mass_floats() * buffers_.shape.layers * 4});
}

void LabelBuilder::restore_mass(std::int64_t slot) const {
  const SelectionBuffers& selection = buffers_.selection;
  if (buffers_.policy.select != Select::heavy) return;
  compute_.copy({.dst = selection.mass(slot, 0),
                 .src = selection.prompt_mass(slot, 0),
                 .width = selection.mass_floats() * buffers_.shape.layers * 4});
}

void LabelBuilder::append(std::int64_t slot, std::int64_t layer, const KvTile& row) const {
  if (!buffers_.plan[static_cast<std::size_t>(layer)].labelled) return;
  compute_.launch(LabelRowsArgs{.kv = row,
                                .labels = buffers_.selection.labels(slot, layer),
                                .act = buffers_.shape.act,
                                .kv_heads = buffers_.shape.kv_heads,
                                .head_dim = buffers_.shape.head_dim});
}

void LabelBuilder::warm(std::int64_t slot, std::int64_t layer, const KvTile& tile) const {
  const KvShape& shape = buffers_.shape;
  const KvLayout& layout = buffers_.layout;
  const SelectionBuffers& selection = buffers_.selection;
  const std::int64_t queries = std::min(tile.rows, SelectionBuffers::kRecentQueries);
  compute_.launch(FillArgs{selection.slot_of(slot, layer), -1, shape.kv_heads * layout.capacity});
  compute_.launch(FillArgs{selection.row_of(slot, layer), -1, shape.kv_heads * layout.cache_rows});
  compute_.launch(FillArgs{selection.used_at(slot, layer), -1, shape.kv_heads * layout.cache_rows});
  // The oldest of them first, so that the newest query's rows are the last to go.
  for (std::int64_t back = std::min(queries, kWarmingQueries); back >= 1; --back) {
    const std::int64_t n = tile.rows - back + 1;
    compute_.launch(select_args(buffers_, slot, layer, n,
                                selection.queries(slot, layer) + (queries - back) * selection.query_bytes(),
                                selection.selected(0)));
    compute_.launch(
        RetainArgs{.rows = selection.selected(0),
                   .places = nullptr,
                   .regions = {.prefix = {}, .ring = {}, .cache = selection.cache(slot, layer), .staging = tile},
                   .begin = layout.prefix_rows,
                   .end = layout.window_begin(tile.rows + 1),
                   .slot_of = selection.slot_of(slot, layer),
                   .slot_stride = layout.capacity,
                   .row_of = selection.row_of(slot, layer),
                   .used_at = selection.used_at(slot, layer),
                   .now = static_cast<std::int32_t>(n - 1),
                   .kv_heads = shape.kv_heads,
                   .row_bytes = shape.row_bytes()});
  }
}

}  // namespace longhaul
