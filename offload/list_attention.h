// Decode attention over selected rows: predict, then repair (DESIGN.md). With the true query the rows are selected;
// those on the device are scored while the others come over the link; meanwhile the next layer's rows are prefetched
// for its predicted query. When every row is on the device, only the selection is left. Look-ahead runs aside, and rows
// move into the resident set on the fetch stream: both beside the layer's products, until the next layer appends.
#pragma once
#include <array>
#include <memory>

#include "kernels/base/error.h"
#include "offload/kv_buffers.h"
#include "offload/kv_pass.h"
#include "offload/streams.h"

namespace longhaul {

class ListAttention {
 public:
  ListAttention(Device& device, const Streams& streams, const KvBuffers& buffers);

  /// A step begins; not `ahead`: rows are not foretold, but where they are what is attended.
  void begin(bool ahead) {
    check(!aside_ && !retaining_ && !listed_ahead_, "the last step has ended");
    ahead_ = ahead;
  }
  /// One step in a layer that selects. The new rows of its batch are in the cache.
  void attend(std::int64_t layer, const StepBatch& batch, const Queries& q, void* out, QueryPredictor& predictor);
  /// Lists what to prefetch for layer + 1, where that layer is predicted; and prefetches it. For a dense layer: one
  /// that selects does both itself.
  void look_ahead(std::int64_t layer, const StepBatch& batch, QueryPredictor& predictor);
  void prefetch(std::int64_t layer, const StepBatch& batch);
  /// Compute waits for what runs beside it: before a layer appends, and at a step's end.
  void join();

 private:
  const LayerPlan& plan(std::int64_t layer) const { return buffers_.plan[static_cast<std::size_t>(layer)]; }
  bool predicted(std::int64_t layer) const { return plan(layer).predicted && (ahead_ || !plan(layer).corrected); }
  bool moves() const { return !buffers_.layout.all_resident(); }
  Regions regions(std::int64_t layer) const;
  void locate(Stream& stream, std::int64_t layer, const StepBatch& batch, RowList selected, bool ahead);
  void gather(std::int64_t layer, const StepBatch& batch, bool ahead);
  AttendListArgs list_args(std::int64_t layer, const StepBatch& batch, const Queries& q) const;
  void add_mass(std::int64_t layer, const AttendListArgs& list);
  void retain(std::int64_t layer, const StepBatch& batch);
  void judge(std::int64_t layer, const StepBatch& batch, const Queries& q);

  /// Rows of layer `layer`: made by the true query, or by the predicted one where nothing repairs.
  RowList listed(std::int64_t layer) const {
    return plan(layer).corrected ? buffers_.selection.selected() : buffers_.selection.predicted(layer);
  }

  Streams streams_;
  const KvBuffers& buffers_;
  std::unique_ptr<Event> listed_, landed_, foreseen_, ahead_listed_, attended_, aside_done_, retained_;
  bool ahead_ = true;
  bool aside_ = false, retaining_ = false;              // what runs that compute has not waited for
  bool listed_ahead_ = false;                           // there is something to prefetch
  std::array<std::unique_ptr<Event>, 2> ahead_landed_;  // by staging half
};

}  // namespace longhaul
