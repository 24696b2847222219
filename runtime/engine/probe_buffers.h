// Memory of what is recorded for measurements (Probes), device and host side. Takes nothing where nothing is recorded.
#pragma once
#include "offload/layout.h"
#include "runtime/plan/plan.h"

namespace longhaul {

struct ProbeBuffers {
  ProbeBuffers(const ModelConfig& c, const EngineOptions& o, const KvLayout& layout, Arena& device, Arena& host)
      : lists(o.probes.steps || o.probes.lists ? o.max_sessions * c.layers * c.kv_heads : 0),
        judged(o.probes.steps ? lists : 0),
        hidden_bytes(o.probes.steps ? o.max_sessions * c.hidden * size_of(o.activations) : 0),
        moments(
            device.take<double>(o.probes.moments ? c.layers * c.kv_heads * moment_doubles(c.head_dim) : 0, "moments")),
        rows(host.take<std::int32_t>(lists * layout.list_rows, "step records")),
        counts(host.take<std::int32_t>(lists, "step records")),
        predicted_rows(host.take<std::int32_t>(judged * layout.list_rows, "step records")),
        predicted_counts(host.take<std::int32_t>(judged, "step records")),
        quality(host.take<SelectionQuality>(2 * judged, "step records")),
        hidden(host.take_bytes(c.layers * hidden_bytes, "step records")),
        tally(host.take<std::int64_t>(c.layers * kTally, "step records")) {}

  std::int64_t lists, judged, hidden_bytes;
  double* moments;              // device: [layers, kv_heads, moment_doubles]
  std::int32_t *rows, *counts;  // host, as StepProbe has them: [sessions, layers, kv_heads, list_rows], ...
  std::int32_t *predicted_rows, *predicted_counts;
  SelectionQuality* quality;  // host: of the selected rows, then of the predicted ones
  std::byte* hidden;          // host: [layers, max_sessions, hidden] act, the layers' inputs
  std::int64_t* tally;        // host: [layers, kTally]
};

}  // namespace longhaul
