#include "bench/bounds.h"

#include <algorithm>

#include "apps/options.h"
#include "kernels/base/error.h"
#include "runtime/plan/peaks.h"

namespace longhaul::bench {

Peaks measure_peaks(const std::string& device) {
  const auto opened = open_device(device, std::int64_t{8} << 30, 0);
  return {copy_bandwidth(*opened), link_bandwidth(*opened, CopyKind::host_to_device)};
}

StepBound step_bound(const StepRun& run, const Peaks& peaks) {
  const double rows = (run.times.staged + run.times.missed) * static_cast<double>(run.row_bytes);
  StepBound bound{.device = static_cast<double>(run.bytes.weights + run.bytes.labels + run.bytes.attended),
                  .link = static_cast<double>(run.bytes.streamed + run.bytes.streamed_weights) + rows};
  bound.seconds = std::max(bound.link / peaks.link, bound.device / peaks.copy);
  bound.text = fmt::format("the bound: {:.0f} bytes of device memory, {:.0f} over the link ({:.0f} came)", bound.device,
                           bound.link, run.times.h2d_bytes);
  return bound;
}

double prefill_flops(const ModelConfig& c, const StepBytes& bytes, std::int64_t tokens) {
  const double n = static_cast<double>(tokens),
               products = static_cast<double>(bytes.weights) / 2 - static_cast<double>(c.vocab * c.hidden);
  return 2 * products * n + 2.0 * n * n * static_cast<double>(c.layers * c.q_heads * c.head_dim);
}

}  // namespace longhaul::bench
