#include "offload/list_attention.h"

#include "offload/edges.h"

namespace longhaul {

ListAttention::ListAttention(Device& device, const Streams& streams, const KvBuffers& buffers)
    : streams_(streams),
      buffers_(buffers),
      listed_(device.make_event()),
      landed_(device.make_event()),
      foreseen_(device.make_event()),
      ahead_listed_(device.make_event()),
      attended_(device.make_event()),
      aside_done_(device.make_event()),
      retained_(device.make_event()),
      ahead_landed_{device.make_event(), device.make_event()} {}

Regions ListAttention::regions(std::int64_t layer) const {
  if (!moves()) return {.prefix = buffers_.prefixes(layer)};
  return {.prefix = buffers_.prefixes(layer),
          .ring = buffers_.rings(layer),
          .cache = buffers_.selection.cache(layer),
          .staging = buffers_.selection.staging(layer)};
}

void ListAttention::locate(Stream& stream, std::int64_t layer, const StepBatch& batch, RowList selected, bool ahead) {
  const SelectionBuffers& selection = buffers_.selection;
  // Ahead, what is not on the device is what to stage; nothing is staged yet.
  const bool staged = !ahead && predicted(layer);
  stream.launch(LocateArgs{.batch = batch,
                           .selected = selected,
                           .prefix_rows = buffers_.layout.prefix_rows,
                           .ring_rows = buffers_.layout.ring_rows,
                           .resident = selection.resident(layer),
                           .staged = staged ? selection.staged(layer) : RowList{},
                           .missing = ahead ? selection.staged(layer) : selection.missing(),
                           .places = ahead ? nullptr : selection.places(),
                           .tally = ahead ? nullptr : selection.tally(layer),
                           .kv_heads = buffers_.shape.kv_heads});
}

void ListAttention::gather(std::int64_t layer, const StepBatch& batch, bool ahead) {
  const SelectionBuffers& selection = buffers_.selection;
  const bool after_staged = !ahead && predicted(layer);
  streams_.fetch.launch(GatherArgs{.batch = batch,
                                   .rows = ahead ? selection.staged(layer) : selection.missing(),
                                   .src = buffers_.host_rows(layer),
                                   .dst = selection.staging(layer),
                                   .dst_first = after_staged ? selection.staged(layer).count : nullptr,
                                   .kv_heads = buffers_.shape.kv_heads,
                                   .row_bytes = buffers_.shape.row_bytes()});
}

AttendListArgs ListAttention::list_args(std::int64_t layer, const StepBatch& batch, const Queries& q) const {
  const KvShape& shape = buffers_.shape;
  const SelectionBuffers& selection = buffers_.selection;
  const bool moves = this->moves();
  return {.q = q.q,
          .q_stride = q.stride,
          .batch = batch,
          .rows = listed(layer),
          .places = moves ? selection.places() : nullptr,
          .regions = regions(layer),
          .landed = !moves             ? nullptr
                    : predicted(layer) ? selection.staged(layer).count
                                       : selection.nothing(),
          .missed = moves ? selection.missing().count : nullptr,
          .scores = selection.scores(),
          .keep_scores = buffers_.policy.select == Select::heavy,
          .state = buffers_.state,
          .splits = buffers_.splits,
          .act = shape.act,
          .q_heads = shape.q_heads,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .scale = shape.scale(),
          .forms = q.forms};
}

void ListAttention::add_mass(std::int64_t layer, const AttendListArgs& list) {
  const SelectionBuffers& selection = buffers_.selection;
  if (buffers_.policy.select != Select::heavy) return;
  streams_.compute.launch(AddListMassArgs{.batch = list.batch,
                                          .rows = list.rows,
                                          .scores = list.scores,
                                          .state = list.state,
                                          .mass = selection.mass(0, layer),
                                          .mass_stride = buffers_.layout.capacity,
                                          .mass_session_stride = selection.mass_session_floats(),
                                          .q_heads = list.q_heads,
                                          .kv_heads = list.kv_heads,
                                          .head_dim = list.head_dim});
}

void ListAttention::retain(std::int64_t layer, const StepBatch& batch) {
  const SelectionBuffers& selection = buffers_.selection;
  if (buffers_.layout.cache_rows == 0) return;
  streams_.compute.record(*attended_);
  streams_.fetch.wait(*attended_, edge::kRowsAttended);
  streams_.fetch.launch(RetainArgs{.batch = batch,
                                   .rows = listed(layer),
                                   .places = selection.places(),
                                   .regions = regions(layer),
                                   .begin = buffers_.layout.prefix_rows,
                                   .resident = selection.resident(layer),
                                   .kv_heads = buffers_.shape.kv_heads,
                                   .row_bytes = buffers_.shape.row_bytes()});
  streams_.fetch.record(*retained_);
  retaining_ = true;
}

void ListAttention::look_ahead(std::int64_t layer, const StepBatch& batch, QueryPredictor& predictor) {
  const SelectionBuffers& selection = buffers_.selection;
  const std::int64_t next = layer + 1;
  if (next >= buffers_.shape.layers || !predicted(next)) return;
  if (!moves() && plan(next).corrected && !selection.judges()) return;  // a hint that nobody takes
  const RowList rows = selection.predicted(next);
  predictor.prepare(next);
  streams_.compute.record(*foreseen_);
  streams_.aside.wait(*foreseen_, edge::kForeseen);
  aside_ = true;
  select_rows(streams_.aside, buffers_, next, batch, predictor.predict(streams_.aside, next),
              /*foretold=*/true, rows, /*beside_gather=*/moves() && !plan(next).corrected);
  if (!moves()) return;
  locate(streams_.aside, next, batch, rows, /*ahead=*/true);
  streams_.aside.record(*ahead_listed_);
  listed_ahead_ = true;
}

void ListAttention::prefetch(std::int64_t layer, const StepBatch& batch) {
  if (!listed_ahead_) return;
  const std::int64_t next = layer + 1;
  streams_.fetch.wait(*ahead_listed_, edge::kPredictionListed);
  gather(next, batch, /*ahead=*/true);
  streams_.fetch.record(*ahead_landed_[static_cast<std::size_t>(next % 2)]);
  listed_ahead_ = false;
}

void ListAttention::join() {
  if (aside_) {
    streams_.aside.record(*aside_done_);
    streams_.compute.wait(*aside_done_, edge::kAsideDone);
  }
  if (retaining_) streams_.compute.wait(*retained_, edge::kRowsRetained);
  aside_ = retaining_ = false;
}

void ListAttention::attend(std::int64_t layer, const StepBatch& batch, const Queries& q, void* out,
                           QueryPredictor& predictor) {
  const bool corrected = plan(layer).corrected;
  if (corrected)
    select_rows(streams_.compute, buffers_, layer, batch, q, /*foretold=*/false, buffers_.selection.selected(),
                /*beside_gather=*/moves() && predicted(layer));
  if (moves()) locate(streams_.compute, layer, batch, listed(layer), /*ahead=*/false);
  const bool fetches = moves() && corrected;  // unrepaired, all that is attended has been prefetched
  if (fetches) {
    streams_.compute.record(*listed_);
    streams_.fetch.wait(*listed_, edge::kMissesListed);
    gather(layer, batch, /*ahead=*/false);
    streams_.fetch.record(*landed_);
  }
  look_ahead(layer, batch, predictor);
  if (moves() && predicted(layer))
    streams_.compute.wait(*ahead_landed_[static_cast<std::size_t>(layer % 2)], edge::kPrefetchLanded);
  const AttendListArgs list = list_args(layer, batch, q);
  if (fetches) {
    streams_.compute.launch(ScoreListArgs{list});
    streams_.compute.wait(*landed_, edge::kMissesLanded);
  }
  streams_.compute.launch(FinishListArgs{.list = list,
                                         .scored = fetches,
                                         .out = out,
                                         .mean = buffers_.selection.mean_values(0, layer),
                                         .mean_session_stride = buffers_.selection.mean_session_floats()});
  add_mass(layer, list);
  if (moves()) retain(layer, batch);
  prefetch(layer,
           batch);  // after the rows that the attention has brought are kept, which does not take as long as look-ahead
  if (buffers_.selection.judges()) judge(layer, batch, q);
}

void ListAttention::judge(std::int64_t layer, const StepBatch& batch, const Queries& q) {
  const KvShape& shape = buffers_.shape;
  const SelectionBuffers& selection = buffers_.selection;
  for (bool of_prediction : {false, true}) {
    if (of_prediction && !predicted(layer)) continue;
    streams_.compute.launch(JudgeArgs{.q = q.q,
                                      .q_stride = q.stride,
                                      .batch = batch,
                                      .kv = buffers_.prefixes(layer),
                                      .rows = of_prediction ? selection.predicted(layer) : listed(layer),
                                      .out = selection.quality(of_prediction, layer),
                                      .out_stride = selection.quality_stride(),
                                      .act = shape.act,
                                      .q_heads = shape.q_heads,
                                      .kv_heads = shape.kv_heads,
                                      .head_dim = shape.head_dim,
                                      .scale = shape.scale(),
                                      .forms = q.forms});
  }
}

}  // namespace longhaul
