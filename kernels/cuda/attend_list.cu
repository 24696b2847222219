// score_list, finish_list: attention over listed rows. What has landed makes the first set of parts; what had not, the
// second: those rows are in staging one after another, so that only who wants their scores by list entry walks the list
// again.
#include "kernels/cuda/attend_parts_launch.cuh"
#include "kernels/cuda/merge_parts.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/row_sources.cuh"

namespace longhaul::cuda {
namespace {

struct Shape {
  int kv_heads, group, head_dim, bytes;

  explicit Shape(const AttendListArgs& a)
      : kv_heads(static_cast<int>(a.kv_heads)),
        group(static_cast<int>(a.q_heads / a.kv_heads)),
        head_dim(static_cast<int>(a.head_dim)),
        bytes(static_cast<int>(row_bytes(a.regions.prefix.type, a.head_dim, a.act))) {}
};

PartSet part_set(const AttendListArgs& a, const std::int32_t* counts, int set) {
  const int kv_heads = static_cast<int>(a.kv_heads);
  return {{.counts = counts, .entries = static_cast<int>(a.batch.count) * kv_heads, .kv_heads = kv_heads},
          parts_in(a.splits, a.batch.count, a.q_heads, a.kv_heads, a.head_dim, set)};
}

template <class Source>
void attend_set(const AttendListArgs& a, const Source& source, const PartSet& to, cudaStream_t stream) {
  const Shape shape(a);
  attend_parts(AttendPartsArgs<Source>{.source = source,
                                       .counts = to.counts,
                                       .q = a.q,
                                       .q_stride = a.q_stride,
                                       .parts = to.parts,
                                       .group = shape.group,
                                       .head_dim = shape.head_dim,
                                       .scale = a.scale,
                                       .scores = a.keep_scores ? a.scores : nullptr,
                                       .score_stride = a.rows.stride,
                                       .forms = a.forms,
                                       .spans = a.batch.spans},
               a.regions.prefix.type, a.act, stream);
}

ListSource list_source(const AttendListArgs& a, ListPart part) {
  const Shape shape(a);
  return {.spans = a.batch.spans,
          .places = a.places != nullptr ? a.places : a.rows.rows,  // a row below 2^29 is its prefix place
          .numbers = a.rows.rows,
          .stride = a.rows.stride,
          .regions = a.regions,
          .landed = a.landed,
          .part = part,
          .kv_heads = shape.kv_heads,
          .row_bytes = shape.bytes};
}

PartSet attend_list(const AttendListArgs& a, ListPart part, int set, cudaStream_t stream) {
  const PartSet to = part_set(a, a.rows.count, set);
  if (a.forms.chunk > 0) attend_set(a, Formed<ListSource>{list_source(a, part)}, to, stream);
  else attend_set(a, list_source(a, part), to, stream);
  return to;
}

PartSet attend_missed(const AttendListArgs& a, cudaStream_t stream) {
  if (a.keep_scores) return attend_list(a, ListPart::missed, 1, stream);
  const Shape shape(a);
  const PartSet to = part_set(a, a.missed, 1);
  const MissedSource source{a.regions.staging, a.landed, shape.kv_heads, shape.bytes};
  if (a.forms.chunk > 0)
    attend_set(
        a,
        Formed<MissedSource>{source, list_source(a, ListPart::missed).places, a.rows.rows, a.rows.count, a.rows.stride},
        to, stream);
  else attend_set(a, source, to, stream);
  return to;
}

}  // namespace

void score_list(const ScoreListArgs& args, cudaStream_t stream) {
  if (args.list.batch.count > 0) attend_list(args.list, ListPart::landed, 0, stream);
}

void finish_list(const FinishListArgs& args, cudaStream_t stream) {
  const AttendListArgs& a = args.list;
  if (a.batch.count == 0) return;
  const Shape shape(a);
  MergePartsArgs merge{.sets = {},
                       .set_count = 1,
                       .blocks = attend_blocks(a.act, a.head_dim),
                       .group = shape.group,
                       .head_dim = shape.head_dim,
                       .state = a.state,
                       .fresh = true,
                       .out = args.out,
                       .act = a.act};
  if (args.mean != nullptr && a.rows.tail != nullptr)
    merge.tail = {.tail = a.rows.tail,
                  .mean = args.mean,
                  .mean_session_stride = args.mean_session_stride,
                  .spans = a.batch.spans,
                  .kv_heads = static_cast<int>(a.kv_heads)};
  if (!args.scored) {
    merge.sets[0] = attend_list(a, ListPart::all, 0, stream);
  } else {
    merge.sets[0] = part_set(a, a.rows.count, 0);
    if (a.missed != nullptr) merge.sets[merge.set_count++] = attend_missed(a, stream);
  }
  merge_parts(merge, stream);
}

}  // namespace longhaul::cuda
