#include "offload/kv_buffers.h"

namespace longhaul {

SelectArgs select_args(const KvBuffers& buffers, std::int64_t slot, std::int64_t layer, std::int64_t n, const void* q,
                       RowList out) {
  const KvShape& shape = buffers.shape;
  const KvPolicy& policy = buffers.policy;
  const SelectionBuffers& selection = buffers.selection;
  const std::int64_t budget = policy.budget(n);
  SelectArgs args{.q = q,
                  .act = shape.act,
                  .q_heads = shape.q_heads,
                  .kv_heads = shape.kv_heads,
                  .head_dim = shape.head_dim,
                  .scale = shape.scale(),
                  .by = SelectBy::none,
                  .combine = policy.combine,
                  .labels = {},
                  .mass = nullptr,
                  .mass_stride = 0,
                  .rows = n,
                  .sinks = policy.sinks,
                  .window = policy.window,
                  .budget = budget,
                  .top_p = static_cast<float>(policy.top_p),
                  .scratch = selection.scratch(),
                  .out = out};
  switch (policy.select) {
    case Select::labels:
      args.by = SelectBy::labels;
      args.labels = selection.labels(slot, layer);
      break;
    case Select::heavy:
      args.by = SelectBy::mass;
      args.mass = selection.mass(slot, layer);
      args.mass_stride = buffers.layout.capacity;
      args.window = std::max<std::int64_t>(1, budget / 2);
      break;
    case Select::recent:
    case Select::all:
      args.window = std::max<std::int64_t>(1, budget - policy.sinks);
      break;
  }
  args.window = std::min(args.window, budget);  // of a session that has just begun
  args.sinks = std::min(args.sinks, budget - args.window);
  return args;
}

}  // namespace longhaul
