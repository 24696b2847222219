#include "runtime/plan/step_bytes.h"

#include <algorithm>

#include "offload/layout.h"
#include "runtime/model/weights.h"

namespace longhaul {

std::int64_t attended_rows(const LayerPlan& plan, const KvPolicy& policy, const KvShape& shape, std::int64_t n) {
  if (plan.windowed) return std::min(shape.window, n);
  return plan.selects ? policy.budget(n) : n;
}

StepBytes step_bytes(const ModelConfig& c, const EngineOptions& o, std::int64_t rows) {
  const KvShape shape = kv_shape(c, o);
  const KvLayout layout = kv_layout(c, o);
  const WeightFormats* formats = o.packed ? o.formats.get() : nullptr;
  const RestBytes all = layers_at_rest(c, formats, 0, c.layers);
  StepBytes bytes{.weights = c.layers * layer_weight_bytes(c, o.max_sessions) + 2 * (c.hidden + c.vocab * c.hidden),
                  .expansion = all.expanded_from + all.expanded_to,
                  .streamed_weights = layers_at_rest(c, formats, c.layers - o.streamed_layers, c.layers).at_rest};
  const std::int64_t bits = o.policy.labels == Labels::exact ? 16 : o.policy.label_bits;
  const std::int64_t label_scan = c.kv_heads * rows * o.policy.dims(c.head_dim) * bits / 8;
  const std::int64_t staged = layout.all_resident() ? 0 : layout.window_begin(rows) - layout.prefix_rows;
  for (const LayerPlan& plan : plan_layers(o.policy, shape)) {
    const std::int64_t attended = attended_rows(plan, o.policy, shape, rows);
    bytes.attended += attended * c.kv_heads * shape.row_bytes();
    if (plan.labelled) bytes.labels += label_scan;
    if (plan.labelled && plan.predicted && plan.corrected) bytes.look_ahead += label_scan;
    if (!plan.selects && !plan.windowed)
      bytes.streamed += std::max<std::int64_t>(staged, 0) * c.kv_heads * shape.row_bytes();
    if (plan.selects && !layout.all_resident()) bytes.listed_rows += attended * c.kv_heads;
  }
  for (std::int64_t* of_sessions :
       {&bytes.labels, &bytes.look_ahead, &bytes.attended, &bytes.streamed, &bytes.listed_rows})
    *of_sessions *= o.max_sessions;
  return bytes;
}

}  // namespace longhaul
