#include "offload/selection_buffers.h"

#include <utility>

#include "kernels/base/bytes.h"

namespace longhaul {

SelectionBuffers::SelectionBuffers(const KvShape& shape, const KvLayout& layout, const KvPolicy& policy,
                                   const SelectionExtras& extras, Arena& device, Arena& host)
    : shape_(shape),
      layers_(shape.full_layers()),
      layers_held_(extras.layers_held),
      layout_(layout),
      dims_(policy.select == Select::labels && layers_ > 0 ? policy.dims(shape.head_dim) : 0),
      bits_(policy.labels == Labels::exact ? 16 : policy.label_bits),
      label_bytes_(shape.kv_heads * ceil_div(layout.capacity, kAttendBlock) * label_block_bytes(dims_, bits_)),
      // Operators read a basis by pairs. Labels lack something else of each form of a query.
      basis_floats_(round_up(shape.kv_heads * label_basis_floats(dims_, shape.head_dim) +
                                 (policy.tail != Tail::none || shape.chunk > 0
                                      ? tail_fit_floats(shape.q_heads, shape.kv_heads, shape.head_dim)
                                      : 0),
                             2)),
      given_bases_(extras.given_bases),
      all_queries_(extras.all_queries),
      keeps_queries_(extras.all_queries || dims_ > 0 || layout.cache_rows > 0),
      judges_(extras.judge && policy.selects()),
      tails_(policy.tail != Tail::none),
      foretells_(dims_ > 0 && policy.look_ahead != LookAhead::none && policy.repair &&
                 (!layout.all_resident() || judges_)),
      mass_floats_(policy.select == Select::heavy || extras.mass ? shape.kv_heads * layout.capacity : 0),
      staging_rows_(device, "kv staging places", shape, 2 * layout.sessions, layout.staged_rows, 1),
      cache_rows_(device, "kv resident set", shape, layout.sessions * layers_, layout.cache_rows, layers_),
      replay_(extras.replay) {
  const std::int64_t all = layout.sessions * layers_, listing = layout.list_rows > 0 ? layout.sessions : 0;
  const std::int64_t moving = layout.staged_rows > 0 ? listing : 0;
  const std::int64_t predicting = policy.look_ahead != LookAhead::none ? listing : 0;
  codes_ = device.take_bytes(all * label_bytes_, "labels");
  basis_ = device.take<float>(dims_ > 0 ? all * basis_floats_ : 0, "label bases");
  // Of queries that are kept: those of the layers that are held, unless all are wanted; of prompts that begin alike one
  // run more.
  std::int64_t runs = 0, shared = 0;
  if (keeps_queries_) runs = extras.all_queries ? all : layers_held_;
  if (keeps_queries_ && extras.shared) shared = 1;
  queries_ = device.take_bytes(runs * recent() * query_bytes(), "recent queries");
  shared_queries_ = device.take_bytes(shared * recent() * query_bytes(), "recent queries");
  older_ = device.take_bytes(runs * older_bytes(), "recent queries");
  shared_older_ = device.take_bytes(shared * older_bytes(), "recent queries");
  const std::int64_t fitted = given_bases_ ? 0 : recent();
  fit_host_ = host.take_bytes(
      dims_ > 0 ? fit_host_bytes(fitted, shape.q_heads, shape.kv_heads, shape.head_dim, dims_, shape.act) : 0,
      "label fit");
  selected_ = take_lists(device, listing, tails_);
  predicted_ = take_lists(device, 2 * predicting, tails_);
  missing_ = take_lists(device, moving, false);
  staged_ = take_lists(device, 2 * moving, false);
  places_ = device.take<std::int32_t>(moving * shape.kv_heads * layout.list_rows, "row lists");
  nothing_ = device.take<std::int32_t>(nothing_count(), "row lists");
  const bool cached = layout.cache_rows > 0;
  slot_of_ = device.take<std::int32_t>(cached ? all * shape.kv_heads * layout.capacity : 0, "resident set index");
  row_of_ = device.take<std::int32_t>(all * shape.kv_heads * layout.cache_rows, "resident set index");
  used_at_ = device.take<std::int32_t>(all * shape.kv_heads * layout.cache_rows, "resident set index");
  warm_spans_ = device.take<StepSpan>(cached || foretells_ ? layout.sessions * kWarmingQueries : 0, "step spans");
  host_warm_spans_ = host.take<StepSpan>(cached || foretells_ ? layout.sessions * kWarmingQueries : 0, "step spans");
  tally_ = device.take<std::int64_t>(layout.list_rows > 0 ? shape.layers * kTally : 0, "row lists");
  sums_ = device.take<float>(foretells_ ? layout.sessions * sums_stride() : 0, "row lists");
  mass_ = device.take<float>(all * mass_floats_, "attention mass");
  prompt_mass_ = device.take<float>(policy.select == Select::heavy ? all * mass_floats_ : 0, "attention mass");
  mean_values_ = device.take<float>(tails_ ? layout.sessions * mean_session_floats() : 0, "mean values");
  quality_ = device.take<SelectionQuality>(judges_ ? 2 * layout.sessions * quality_stride() : 0, "selection quality");
  scratch_ = device.take<float>(dims_ > 0 || policy.select == Select::heavy
                                    ? select_floats(layout.sessions, shape.q_heads, shape.kv_heads, layout.capacity)
                                    : 0,
                                "selection scores");
  scores_ = device.take<float>(listing * shape.q_heads * layout.list_rows, "selection scores");
  const bool recorded = replay_ && replay_->recorded();
  replay_rows_ = device.take<std::int32_t>(recorded ? std::ssize(replay_->rows) : 0, "replayed rows");
  replay_counts_ = device.take<std::int32_t>(recorded ? std::ssize(replay_->counts) : 0, "replayed rows");
}

SelectionBuffers::Lists SelectionBuffers::take_lists(Arena& device, std::int64_t lists, bool tail) const {
  Lists taken;
  taken.rows = device.take<std::int32_t>(lists * shape_.kv_heads * layout_.list_rows, "row lists");
  taken.count = device.take<std::int32_t>(lists * shape_.kv_heads, "row lists");
  taken.tail = tail ? device.take<float>(lists * shape_.q_heads, "row lists") : nullptr;
  return taken;
}

LabelTile SelectionBuffers::labels(std::int64_t slot, std::int64_t layer) const {
  return {.codes = codes_ + outer(slot, layer) * label_bytes_,
          .head_stride = label_bytes_ / shape_.kv_heads,
          .basis = basis_ + outer(slot, layer) * basis_floats_,
          .dims = dims_,
          .bits = bits_,
          .session_stride = layers_ * label_bytes_,
          .basis_stride = layers_ * basis_floats_};
}

ResidentSet SelectionBuffers::resident(std::int64_t layer, std::int64_t slot) const {
  if (layout_.cache_rows == 0) return {};
  const std::int64_t heads = outer(slot, layer) * shape_.kv_heads, session_heads = layers_ * shape_.kv_heads;
  return {.slot_of = slot_of_ + heads * layout_.capacity,
          .stride = layout_.capacity,
          .slot_of_session = session_heads * layout_.capacity,
          .row_of = row_of_ + heads * layout_.cache_rows,
          .used_at = used_at_ + heads * layout_.cache_rows,
          .rows = layout_.cache_rows,
          .row_of_session = session_heads * layout_.cache_rows};
}

std::optional<ReplayArgs> SelectionBuffers::replay(std::int64_t layer, const StepBatch& batch, bool foretold,
                                                   RowList out) const {
  if (!replay_) return {};
  constexpr std::int64_t kLayerShift = 5;  // layers that replay the same recorded one are so many steps apart
  ReplayArgs args{.batch = batch, .first_list = layer, .kv_heads = shape_.kv_heads, .out = out};
  if (foretold) args.recall = replay_->recall;
  if (!replay_->recorded()) return args;
  args.rows = replay_rows_, args.count = replay_counts_;
  args.steps = replay_->steps, args.lists = replay_->layers * replay_->heads, args.stride = replay_->stride;
  args.first_list = replay_->layer_for(layer) * replay_->heads, args.heads = replay_->heads;
  args.shift = (layer - replay_->layer_for(layer)) * kLayerShift;
  return args;
}

void SelectionBuffers::send_replay(Stream& compute) const {
  if (!replay_) return;
  for (const auto& [to, from] : {std::pair{replay_rows_, &replay_->rows}, {replay_counts_, &replay_->counts}})
    compute.copy({.dst = to, .src = from->data(), .width = std::ssize(*from) * 4, .kind = CopyKind::host_to_device});
}

std::byte* SelectionBuffers::queries(std::int64_t slot, std::int64_t layer) const {
  const std::int64_t run = all_queries_ ? outer(slot, layer) : layer % layers_held_;
  return queries_ + run * recent() * query_bytes();
}

std::byte* SelectionBuffers::older_queries(std::int64_t slot, std::int64_t layer) const {
  return older_ + (all_queries_ ? outer(slot, layer) : layer % layers_held_) * older_bytes();
}

}  // namespace longhaul
