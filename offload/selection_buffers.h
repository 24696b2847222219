// The memory of label selection: labels, lists, staging places, the resident set. Laid out by the plan as KvBuffers is.
#pragma once
#include <memory>
#include <optional>

#include "kernels/arena.h"
#include "offload/layer_plan.h"
#include "offload/layout.h"
#include "offload/replay.h"
#include "offload/row_block.h"

namespace longhaul {

/// Where labels come from, and what is also kept for measurements.
struct SelectionExtras {
  bool given_bases = false;  // labels are not made from the document
  bool all_queries = false;  // of a session's recent queries those of all layers, not of one
  bool shared = false;       // keeps recent queries of what several prompts share, too
  /// 2: a prefill has the rows and recent queries of two layers, so that labels of one are made while the next is
  /// computed; or 1.
  std::int64_t layers_held = 1;
  bool mass = false, judge = false;
  bool checksums = false;                     // of the rows that a prefill has made, layer by layer
  std::shared_ptr<const Replay> replay = {};  // rows to attend in place of those selected; null: none
};

class SelectionBuffers {
 public:
  static constexpr std::int64_t kRecentQueries = 2048;  // of a prompt; what labels are fitted to
  static constexpr std::int64_t kWarmingQueries = 16;   // of the prompt's end; what the resident set begins with

  SelectionBuffers(const KvShape& shape, const KvLayout& layout, const KvPolicy& policy, const SelectionExtras& extras,
                   Arena& device, Arena& host);

  /// Labels of one session's layer; of slot 0's, those of all sessions.
  LabelTile labels(std::int64_t slot, std::int64_t layer) const;
  /// Query of token `index` of the recent queries, in a run that begins a layer.
  std::byte* queries(std::int64_t slot, std::int64_t layer) const;
  /// The recent queries of a layer of what several prompts share, in the same way.
  std::byte* shared_queries() const { return shared_queries_; }
  /// Of the last of them, as many as select: their older forms, [2, kWarmingQueries] where queries have any.
  std::byte* older_queries(std::int64_t slot, std::int64_t layer) const;
  std::byte* shared_older_queries() const { return shared_older_; }
  std::int64_t older_bytes() const { return shape_.chunk > 0 ? 2 * kWarmingQueries * query_bytes() : 0; }
  std::byte* fit_host() const { return fit_host_; }  // of fit_labels
  bool given_bases() const { return given_bases_; }
  bool keeps_queries() const { return keeps_queries_; }
  std::int64_t query_bytes() const { return shape_.q_heads * shape_.head_dim * size_of(shape_.act); }

  /// Lists of a step's tokens, from a place in the batch on.
  RowList selected(std::int64_t place = 0) const { return list(selected_, place); }
  RowList missing() const { return list(missing_, 0); }
  /// What the predicted query selects for a layer, and what was prefetched of it: two of each in turn.
  RowList predicted(std::int64_t layer, std::int64_t place = 0) const {
    return list(predicted_, layer % 2 * layout_.sessions + place);
  }
  RowList staged(std::int64_t layer) const { return list(staged_, layer % 2 * layout_.sessions); }
  std::int32_t* places() const { return places_; }  // of the rows attended
  KvTile staging(std::int64_t layer) const {        // by place in the batch
    return staging_rows_.tile(layer % 2 * layout_.sessions, 0, 0, layout_.staged_rows);
  }
  std::int32_t* nothing() const { return nothing_; }  // [sessions, kv_heads] zeros
  std::int64_t nothing_count() const { return layout_.sessions * shape_.kv_heads; }

  /// The resident sets of a layer, by slot: the rows, and what they are; of one session's from its slot on.
  KvTile cache(std::int64_t layer) const { return cache_rows_.tile(outer(0, layer), 0, 0, layout_.cache_rows); }
  ResidentSet resident(std::int64_t layer, std::int64_t slot = 0) const;
  /// [kWarmingQueries]: on the device, and what is sent there.
  StepSpan* warm_spans(std::int64_t slot) const { return warm_spans_ + slot * kWarmingQueries; }
  StepSpan* host_warm_spans(std::int64_t slot) const { return host_warm_spans_ + slot * kWarmingQueries; }
  /// The mean value of a session's prompt, [kv_heads, head_dim] a layer; null where nothing stands for rows that are
  /// not attended. Of slot 0's, those of all sessions, mean_session_floats() apart.
  float* mean_values(std::int64_t slot, std::int64_t layer) const {
    return tails_ ? mean_values_ + outer(slot, layer) * shape_.kv_heads * shape_.head_dim : nullptr;
  }
  std::int64_t mean_session_floats() const { return layers_ * shape_.kv_heads * shape_.head_dim; }
  /// What the last true selection of each session has found of a layer, for look-ahead: SelectArgs::sums of slot 0,
  /// sums_stride() apart; null where nothing is foretold by labels.
  float* sums(std::int64_t slot, std::int64_t layer) const {
    return foretells_ ? sums_ + outer(slot, layer) * shape_.q_heads : nullptr;
  }
  std::int64_t sums_stride() const { return layers_ * shape_.q_heads; }
  std::int64_t* tally(std::int64_t layer) const { return tally_ + layer * kTally; }

  float* mass(std::int64_t slot, std::int64_t layer) const {
    return mass_ + outer(slot, layer) * shape_.kv_heads * layout_.capacity;
  }
  /// The mass at the prompt's end, to go back to.
  float* prompt_mass(std::int64_t slot, std::int64_t layer) const {
    return prompt_mass_ + outer(slot, layer) * shape_.kv_heads * layout_.capacity;
  }
  bool has_mass() const { return mass_floats_ > 0; }
  std::int64_t mass_floats() const { return mass_floats_; }  // of one session's layer
  std::int64_t mass_session_floats() const { return layers_ * mass_floats_; }

  /// Of a step's tokens, from a place in the batch on, quality_stride() apart; with `judge`.
  SelectionQuality* quality(bool of_prediction, std::int64_t layer, std::int64_t place = 0) const {
    return quality_ + (of_prediction * layout_.sessions + place) * quality_stride() + layer * shape_.kv_heads;
  }
  std::int64_t quality_stride() const { return shape_.layers * shape_.kv_heads; }
  bool judges() const { return judges_; }

  /// What takes the place of a layer's selection, or of the one that look-ahead foretells; none: queries select.
  std::optional<ReplayArgs> replay(std::int64_t layer, const StepBatch& batch, bool foretold, RowList out) const;
  /// Brings the rows to replay to the device, once.
  void send_replay(Stream& compute) const;

  float* scratch() const { return scratch_; }  // of select
  float* scores() const { return scores_; }    // of listed rows

 private:
  struct Lists {
    std::int32_t *rows, *count;
    float* tail;  // null: these have none
  };
  Lists take_lists(Arena& device, std::int64_t lists, bool tail) const;
  RowList list(const Lists& lists, std::int64_t i) const {
    return {.rows = lists.rows + i * shape_.kv_heads * layout_.list_rows,
            .count = lists.count + i * shape_.kv_heads,
            .stride = layout_.list_rows,
            .tail = lists.tail == nullptr ? nullptr : lists.tail + i * shape_.q_heads};
  }
  std::int64_t recent() const { return std::min(kRecentQueries, layout_.capacity); }
  std::int64_t outer(std::int64_t slot, std::int64_t layer) const { return slot * layers_ + shape_.index(layer); }

  KvShape shape_;
  std::int64_t layers_;  // that see every row: the others have nothing of all this
  std::int64_t layers_held_;
  KvLayout layout_;
  std::int64_t dims_, bits_, label_bytes_, basis_floats_;  // of one session's layer
  bool given_bases_, all_queries_, keeps_queries_, judges_, tails_, foretells_;
  std::int64_t mass_floats_;
  std::byte* codes_;
  float* basis_;
  std::byte *queries_, *shared_queries_, *older_, *shared_older_, *fit_host_;
  Lists selected_, missing_, predicted_, staged_;
  std::int32_t *places_, *nothing_;
  RowBlock staging_rows_, cache_rows_;
  std::int32_t *slot_of_, *row_of_, *used_at_;
  StepSpan *warm_spans_, *host_warm_spans_;
  std::int64_t* tally_;
  float* sums_;
  float *mass_, *prompt_mass_, *mean_values_;
  SelectionQuality* quality_;
  float *scratch_, *scores_;
  std::shared_ptr<const Replay> replay_;
  std::int32_t *replay_rows_, *replay_counts_;
};

}  // namespace longhaul
