// What a budget holds: the plan that was asked for, and how far one could go beside it.
#pragma once
#include <optional>

#include "runtime/engine/predict.h"
#include "runtime/plan/machine_profile.h"
#include "runtime/plan/plan.h"

namespace longhaul {

struct Capacity {
  EngineOptions options;  // fitted
  MemoryPlan memory;
  std::int64_t longest_context = 0;  // of as many sessions as are planned
  std::int64_t largest_batch = 0;    // sessions of the planned length
  std::optional<Prediction> prediction;
};

/// Throws UserError{plan_does_not_fit} as fit_to_budget does. No prediction without a profile.
Capacity capacity(const ModelConfig& config, const EngineOptions& wanted, const Budget& budget,
                  const std::optional<MachineProfile>& machine);

/// The longest sessions that fit as many together as options.max_sessions; 0: none.
std::int64_t longest_context(const ModelConfig& config, const EngineOptions& options, const Budget& budget);

}  // namespace longhaul
