#include "runtime/model/capacity.h"

namespace longhaul {

std::int64_t longest_context(const ModelConfig& config, const EngineOptions& options, const Budget& budget) {
  std::int64_t fits = 0, does_not = (std::int64_t{1} << 27) + 1;  // what fits, fits with fewer rows too
  while (does_not - fits > 1) {
    EngineOptions other = options;
    other.max_len = fits + (does_not - fits) / 2;
    const auto fitted = try_fit(config, other, budget);
    (fitted && fitted->max_sessions == options.max_sessions ? fits : does_not) = other.max_len;
  }
  return fits;
}

Capacity capacity(const ModelConfig& config, const EngineOptions& wanted, const Budget& budget,
                  const std::optional<MachineProfile>& machine) {
  Capacity found{.options = fit_to_budget(config, wanted, budget)};
  found.memory = plan_memory(config, found.options);
  EngineOptions as_wanted = wanted;
  as_wanted.max_sessions = found.options.max_sessions;
  found.longest_context = longest_context(config, as_wanted, budget);
  as_wanted.max_sessions = kDecodeTokens;
  found.largest_batch = try_fit(config, as_wanted, budget)->max_sessions;
  if (machine) found.prediction = predict(config, found.options, found.options.max_len, *machine);
  return found;
}

}  // namespace longhaul
