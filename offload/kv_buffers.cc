#include "offload/kv_buffers.h"

namespace longhaul {

StepSpan step_span(const KvPolicy& policy, std::int64_t slot, std::int64_t n, std::int64_t ring_first,
                   std::int64_t host_first) {
  const std::int64_t budget = policy.budget(n);
  std::int64_t window = policy.window;
  if (policy.select == Select::heavy) window = std::max<std::int64_t>(1, budget / 2);
  if (policy.select == Select::recent) window = std::max<std::int64_t>(1, budget - policy.sinks);
  window = std::min(window, budget);  // of a session that has just begun
  const std::int64_t sinks = std::min(policy.sinks, budget - window);
  auto narrow = [](std::int64_t x) { return static_cast<std::int32_t>(x); };
  return {.slot = narrow(slot),
          .rows = narrow(n),
          .ring_first = narrow(ring_first),
          .budget = narrow(budget),
          .sinks = narrow(sinks),
          .window = narrow(window),
          .host_first = narrow(host_first)};
}

void select_rows(Stream& compute, const KvBuffers& buffers, std::int64_t layer, const StepBatch& batch,
                 const Queries& q, bool foretold, RowList out, bool beside_gather) {
  const KvShape& shape = buffers.shape;
  const KvPolicy& policy = buffers.policy;
  const SelectionBuffers& selection = buffers.selection;
  const bool corrected = buffers.plan[static_cast<std::size_t>(layer)].corrected;
  // Of what is corrected later the sums of the last step are near enough.
  const bool hint = foretold && corrected && selection.sums(0, layer) != nullptr;
  RowList listed = out;
  if (hint) listed.tail = nullptr;
  const bool by_labels = policy.select == Select::labels, by_mass = policy.select == Select::heavy;
  compute.launch(SelectArgs{.q = q.q,
                            .q_stride = q.stride,
                            .batch = batch,
                            .act = shape.act,
                            .q_heads = shape.q_heads,
                            .kv_heads = shape.kv_heads,
                            .head_dim = shape.head_dim,
                            .scale = shape.scale(),
                            .by = by_labels ? SelectBy::labels
                                  : by_mass ? SelectBy::mass
                                            : SelectBy::none,
                            .combine = policy.combine,
                            .labels = by_labels ? selection.labels(0, layer) : LabelTile{},
                            .mass = by_mass ? selection.mass(0, layer) : nullptr,
                            .mass_stride = buffers.layout.capacity,
                            .mass_session_stride = selection.mass_session_floats(),
                            .top_p = static_cast<float>(policy.top_p),
                            .scratch = selection.scratch(),
                            .out = listed,
                            .sums = corrected ? selection.sums(0, layer) : nullptr,
                            .sums_stride = selection.sums_stride(),
                            .sums_given = hint,
                            .beside_gather = beside_gather,
                            .forms = q.forms});
  if (const auto replay = selection.replay(layer, batch, foretold, out)) compute.launch(*replay);
}

}  // namespace longhaul
