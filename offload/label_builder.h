// What a layer's prefill leaves behind for selection, made while its rows are still on the device: labels in a basis
// fitted to them, and a resident set and sums of softmaxes from the prompt's last queries. Labels have a stream of
// their own, from when the layer's last rows are there on, while compute attends them and, where the prefill holds two
// layers, goes through the next one: a fit is small steps, of the host's on a GPU. What selects is compute's, later,
// for steps select in the same scratch.
#pragma once
#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "offload/kv_buffers.h"
#include "offload/kv_pass.h"
#include "offload/streams.h"

namespace longhaul {

class LabelBuilder {
 public:
  LabelBuilder(Device& device, const Streams& streams, const KvBuffers& buffers);

  /// Ends what has been begun for all layers so far: before another prompt overwrites what is not a layer's, its rope
  /// table and spans.
  void settle();
  /// The same if some of it is for this session, before its first step.
  void settle(std::int64_t slot);
  /// The same for what is made of what this layer's rows and queries overwrite.
  void make_room(std::int64_t layer);
  /// Before a prompt of `rows` rows: sends what its last queries' selections depend on.
  void begin(std::int64_t slot, std::int64_t rows) const;
  /// Keeps the span's queries, as far as they are among the last of a prompt of `rows` rows.
  void keep_queries(std::int64_t layer, const Span& span, const Queries& q, std::int64_t rows) const;
  /// The same for rows that several prompts share: `shared` of them, of the layer that is walked through.
  void keep_shared_queries(const Span& span, const Queries& q, std::int64_t shared) const;
  /// And what of them is among the last of such a prompt's.
  void take_shared_queries(std::int64_t slot, std::int64_t layer, std::int64_t rows, std::int64_t shared) const;
  /// Adds the attention mass that the span's queries give to the rows they see; buffers.state is their attention's.
  void add_mass(std::int64_t layer, const Span& span, const Queries& q, const KvTile& seen) const;
  /// Begins with what compute has written by now. `tile`: all rows of the prompt on the device; inv_freq: [head_dim /
  /// 2] of its rope.
  void build(std::int64_t slot, std::int64_t layer, const KvTile& tile, const float* inv_freq);
  /// Notes the attention mass at the prompt's end, and goes back to it.
  void keep_mass(std::int64_t slot) const;
  void restore_mass(std::int64_t slot) const;

 private:
  static constexpr std::int64_t kTargets = 1024;  // positions of an answer that labels are fitted to

  /// Whether something is made of the prompt's last queries' selections: the resident set, or the last one's sums.
  bool warms() const { return buffers_.layout.cache_rows > 0 || buffers_.selection.sums(0, 0) != nullptr; }
  /// How many of them.
  std::int64_t warming(std::int64_t rows) const {
    return buffers_.layout.cache_rows > 0 ? std::min(rows, SelectionBuffers::kWarmingQueries)
                                          : std::min<std::int64_t>(rows, 1);
  }
  const LayerPlan& plan(std::int64_t layer) const { return buffers_.plan[static_cast<std::size_t>(layer)]; }
  /// To where the recent ones are, and the older forms of the last of them.
  void keep_queries(std::byte* to, std::byte* older, const Span& span, const Queries& q, std::int64_t rows) const;
  /// body(first byte of its copies, form) for both older forms, where queries have any.
  template <class Body>
  void for_each_older(const Body& body) const {
    if (buffers_.shape.chunk == 0) return;
    for (const std::int64_t form : {0, 1}) body(form * buffers_.selection.older_bytes() / 2, form);
  }
  void label(std::int64_t slot, std::int64_t layer, const KvTile& tile, const float* inv_freq) const;
  void warm(std::int64_t slot, std::int64_t layer, const KvTile& tile) const;
  /// Of the layers that are held at a time.
  Event& labelled(std::int64_t layer) { return *labelled_[static_cast<std::size_t>(layer % buffers_.layers_held)]; }

  struct Begun {
    std::int64_t slot, layer;
    KvTile tile;
  };
  void finish(const Begun& begun, Edge edge);

  Stream &compute_, &stream_;
  const KvBuffers& buffers_;
  std::unique_ptr<Event> appended_;
  std::array<std::unique_ptr<Event>, 2> labelled_;
  std::vector<Begun> begun_;  // and not ended, the earliest first
};

}  // namespace longhaul
