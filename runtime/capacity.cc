#include "runtime/capacity.h"

namespace longhaul {
namespace {

/// The largest x up to `most` that fits(x), 0 where not even 1 does; what fits, fits with less too.
template <class Fits>
std::int64_t largest(std::int64_t most, const Fits& fits) {
  std::int64_t good = 0, bad = most + 1;
  while (bad - good > 1) {
    const std::int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

}  // namespace

std::int64_t longest_context(const ModelConfig& config, const EngineOptions& options, const Budget& budget) {
  constexpr std::int64_t kMost = std::int64_t{1} << 27;
  return largest(kMost, [&](std::int64_t rows) {
    EngineOptions other = options;
    other.max_len = rows;
    return fit_sessions(config, other, budget);
  });
}

Capacity capacity(const ModelConfig& config, const EngineOptions& wanted, const Budget& budget,
                  const std::optional<MachineProfile>& machine) {
  Capacity found{.options = fit_to_budget(config, wanted, budget)};
  found.memory = plan_memory(config, found.options);
  found.longest_context = longest_context(config, found.options, budget);
  found.largest_batch = largest(kDecodeTokens, [&](std::int64_t sessions) {
    EngineOptions other = found.options;
    other.max_sessions = sessions;
    return fit_sessions(config, other, budget);
  });
  if (machine) found.prediction = predict(config, found.options, found.options.max_len, *machine);
  return found;
}

}  // namespace longhaul
