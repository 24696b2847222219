// attend_step: each token of a batch over its rows of a tile or of the ring.
#include <type_traits>

#include "kernels/cuda/attend_parts_launch.cuh"
#include "kernels/cuda/merge_parts.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/row_sources.cuh"

namespace longhaul::cuda {

void attend_step(const AttendStepArgs& a, cudaStream_t stream) {
  if (a.batch.count == 0) return;
  const int kv_heads = static_cast<int>(a.kv_heads), bytes = static_cast<int>(row_bytes(a.kv.type, a.head_dim, a.act));
  const int group = static_cast<int>(a.q_heads / a.kv_heads), head_dim = static_cast<int>(a.head_dim);
  const RowCounts counts{.spans = a.batch.spans,
                         .from = a.from,
                         .first = static_cast<int>(a.kv.first),
                         .rows = static_cast<int>(a.kv.rows),
                         .entries = static_cast<int>(a.batch.count),
                         .same = kv_heads,
                         .kv_heads = kv_heads,
                         .window = a.window};
  const Parts parts = parts_in(a.splits, a.batch.count, a.q_heads, a.kv_heads, a.head_dim, 0);
  auto attend = [&](const auto& source) {
    attend_parts(AttendPartsArgs<std::remove_cvref_t<decltype(source)>>{.source = source,
                                                                        .counts = counts,
                                                                        .q = a.q,
                                                                        .q_stride = a.q_stride,
                                                                        .parts = parts,
                                                                        .group = group,
                                                                        .head_dim = head_dim,
                                                                        .scale = a.scale,
                                                                        .scores = nullptr,
                                                                        .score_stride = 0,
                                                                        .forms = a.forms,
                                                                        .spans = a.batch.spans},
                 a.kv.type, a.act, stream);
  };
  const StepSource source{a.batch.spans, a.kv, a.from, kv_heads, bytes, a.window};
  if (a.forms.chunk > 0) attend(Formed<StepSource>{source});
  else attend(source);
  merge_parts({.sets = {{counts, parts}},
               .set_count = 1,
               .blocks = attend_blocks(a.act, a.head_dim),
               .group = group,
               .head_dim = head_dim,
               .state = a.state,
               .fresh = a.fresh,
               .out = nullptr,
               .act = a.act},
              stream);
}

}  // namespace longhaul::cuda
