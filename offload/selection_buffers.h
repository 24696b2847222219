// The memory of label selection: labels, lists, staging places, the resident set. Laid out by the plan as KvBuffers is.
#pragma once
#include "kernels/arena.h"
#include "offload/layer_plan.h"
#include "offload/layout.h"
#include "offload/row_block.h"

namespace longhaul {

/// Where labels come from, and what selection also keeps for measurements.
struct SelectionExtras {
  bool given_bases = false;  // labels are not made from the document
  bool all_queries = false;  // of a session's recent queries those of all layers, not of one
  bool mass = false, judge = false;
};

class SelectionBuffers {
 public:
  static constexpr std::int64_t kRecentQueries = 2048;  // of a prompt; what labels are fitted to

  SelectionBuffers(const KvShape& shape, const KvLayout& layout, const KvPolicy& policy, const SelectionExtras& extras,
                   Arena& device);

  /// Labels of one session's layer.
  LabelTile labels(std::int64_t slot, std::int64_t layer) const;
  /// Query of token `index` of the recent queries, in a run that begins a layer.
  std::byte* queries(std::int64_t slot, std::int64_t layer) const;
  bool given_bases() const { return given_bases_; }
  bool keeps_queries() const { return keeps_queries_; }
  std::int64_t query_bytes() const { return shape_.q_heads * shape_.head_dim * size_of(shape_.act); }

  /// Lists of the i-th span of a step.
  RowList selected(std::int64_t i) const { return list(selected_, i); }
  RowList missing(std::int64_t i) const { return list(missing_, i); }
  /// What the predicted query selects for a layer, and what was prefetched of it: two of each in turn.
  RowList predicted(std::int64_t layer, std::int64_t i) const {
    return list(predicted_, layer % 2 * layout_.sessions + i);
  }
  RowList staged(std::int64_t layer, std::int64_t i) const { return list(staged_, layer % 2 * layout_.sessions + i); }
  std::int32_t* places(std::int64_t i) const { return places_ + i * shape_.kv_heads * layout_.list_rows; }
  KvTile staging(std::int64_t layer, std::int64_t i) const {
    return staging_rows_.tile(layer % 2 * layout_.sessions + i, 0, 0, layout_.staged_rows);
  }
  std::int32_t* nothing() const { return nothing_; }  // [kv_heads] zeros

  KvTile cache(std::int64_t slot, std::int64_t layer) const {
    return cache_rows_.tile(outer(slot, layer), 0, 0, layout_.cache_rows);
  }
  std::int32_t* slot_of(std::int64_t slot, std::int64_t layer) const {
    return layout_.cache_rows > 0 ? slot_of_ + outer(slot, layer) * shape_.kv_heads * layout_.capacity : nullptr;
  }
  std::int32_t* row_of(std::int64_t slot, std::int64_t layer) const {
    return row_of_ + outer(slot, layer) * shape_.kv_heads * layout_.cache_rows;
  }
  std::int32_t* used_at(std::int64_t slot, std::int64_t layer) const {
    return used_at_ + outer(slot, layer) * shape_.kv_heads * layout_.cache_rows;
  }
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

  /// Of the i-th span of a step; with `judge`.
  SelectionQuality* quality(bool of_prediction, std::int64_t i, std::int64_t layer) const {
    return quality_ + ((of_prediction * layout_.sessions + i) * shape_.layers + layer) * shape_.kv_heads;
  }
  bool judges() const { return judges_; }

  float* scratch() const { return scratch_; }                                                       // of select
  float* scores(std::int64_t i) const { return scores_ + i * shape_.q_heads * layout_.list_rows; }  // of listed rows

 private:
  struct Lists {
    std::int32_t *rows, *count;
  };
  Lists take_lists(Arena& device, std::int64_t lists) const;
  RowList list(const Lists& lists, std::int64_t i) const {
    return {lists.rows + i * shape_.kv_heads * layout_.list_rows, lists.count + i * shape_.kv_heads, layout_.list_rows};
  }
  std::int64_t outer(std::int64_t slot, std::int64_t layer) const { return slot * shape_.layers + layer; }

  KvShape shape_;
  KvLayout layout_;
  std::int64_t dims_, bits_, label_bytes_, basis_floats_;  // of one session's layer
  bool given_bases_, all_queries_, keeps_queries_, judges_;
  std::int64_t mass_floats_;
  std::byte* codes_;
  float* basis_;
  std::byte* queries_;
  Lists selected_, missing_, predicted_, staged_;
  std::int32_t *places_, *nothing_;
  RowBlock staging_rows_, cache_rows_;
  std::int32_t *slot_of_, *row_of_, *used_at_;
  std::int64_t* tally_;
  float *mass_, *prompt_mass_;
  SelectionQuality* quality_;
  float *scratch_, *scores_;
};

}  // namespace longhaul
