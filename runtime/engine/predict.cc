#include "runtime/engine/predict.h"

#include <algorithm>
#include <array>
#include <utility>

#include "offload/layout.h"
#include "runtime/engine/prefill_work.h"
#include "runtime/plan/step_bytes.h"

namespace longhaul {
namespace {

constexpr double kProbedRow = 512;  // bytes of the rows that a link's profile counts

/// Bytes/s of scattered rows: as its profile's way brings them, and no faster than a large copy.
double gather_rate(const LinkProfile& link) {
  const double rows = std::max({link.zero_copy_scattered, link.host_scattered, link.both_scattered});
  return rows > 0 ? std::min(rows * kProbedRow, link.h2d_GBps * 1e9) : link.h2d_GBps * 1e9;
}

double prefill_seconds(const ModelConfig& c, const EngineOptions& o, std::int64_t rows, const MachineProfile& machine) {
  const double n = static_cast<double>(rows), layers = static_cast<double>(c.layers);
  const double products = 2 * n * layers * linear_work(c);
  double seen = 0;  // rows, by all tokens in all layers
  for (std::int64_t l = 0; l < c.layers; ++l) seen += rows_seen(c, l, 0, rows);
  const double attention = 4 * seen * static_cast<double>(c.q_heads * c.head_dim);
  const double computed =
      products / (machine.rates.product_TFLOPs * 1e12) + attention / (machine.rates.attention_TFLOPs * 1e12);
  const KvShape shape = kv_shape(c, o);
  const KvLayout layout = kv_layout(c, o);
  const std::int64_t leaving = std::max<std::int64_t>(rows - layout.prefix_rows, 0);
  const auto stored = static_cast<double>(shape.full_layers() * leaving * shape.kv_heads * shape.row_bytes());
  return std::max(computed, layout.all_resident() ? 0 : stored / (machine.link.d2h_GBps * 1e9));
}

}  // namespace

double assumed_hit_rate(double cache) {
  constexpr std::array<std::pair<double, double>, 4> kMeasured{{{0, 0}, {1, 0.73}, {2, 0.86}, {4, 0.92}}};
  for (std::size_t i = 1; i < kMeasured.size(); ++i) {
    const auto [low, at_low] = kMeasured[i - 1];
    const auto [high, at_high] = kMeasured[i];
    if (cache < high) return at_low + (at_high - at_low) * (cache - low) / (high - low);
  }
  return kMeasured.back().second;
}

Prediction predict(const ModelConfig& config, const EngineOptions& options, std::int64_t rows,
                   const MachineProfile& machine) {
  const StepBytes bytes = step_bytes(config, options, rows);
  Prediction p;
  if (bytes.listed_rows > 0) p.hit_rate = assumed_hit_rate(options.cache);
  const double missed = static_cast<double>(bytes.listed_rows) * (1 - p.hit_rate) *
                        static_cast<double>(kv_shape(config, options).row_bytes());
  const auto streamed = static_cast<double>(bytes.streamed + bytes.streamed_weights);
  p.device_bytes =
      static_cast<double>(bytes.weights + bytes.expansion + bytes.labels + bytes.look_ahead + bytes.attended);
  p.link_bytes = streamed + missed;
  p.device_seconds = p.device_bytes / (machine.rates.copy_GBps * 1e9);
  p.link_seconds = streamed / (machine.link.h2d_GBps * 1e9) + missed / gather_rate(machine.link);
  const double ahead = std::max(p.device_seconds, p.link_seconds);
  const double foretelling = static_cast<double>(bytes.look_ahead) / (machine.rates.copy_GBps * 1e9);
  const double on_demand = p.device_seconds - foretelling + p.link_seconds;
  const bool tries = options.policy.selects() && options.policy.look_ahead == LookAhead::measured;
  const bool hides = !options.policy.selects() || options.policy.look_ahead == LookAhead::hidden;
  p.step_seconds = tries ? std::min(ahead, on_demand) : hides ? ahead : on_demand;
  p.tokens_per_second = static_cast<double>(options.max_sessions) / p.step_seconds;
  p.prefill_seconds = prefill_seconds(config, options, rows, machine);
  return p;
}

}  // namespace longhaul
