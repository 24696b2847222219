// A plan with its predictions, for people and for programs.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/model/capacity.h"
#include "runtime/model/geometry.h"

namespace longhaul {

struct PlanReport {
  Geometry shape;
  bool synthetic = false;            // of a geometry, not of a model
  bool cuda = false;                 // for a CUDA device
  std::int64_t wanted_sessions = 1;  // together
  Budget budget;                     // as given or available
  std::optional<MachineProfile> machine;
  Capacity now, more;  // under the budget, and with kMoreBytes more of device memory
};
inline constexpr std::int64_t kMoreBytes = std::int64_t{1} << 30;

std::string plan_text(const PlanReport& report);
nlohmann::ordered_json plan_json(const PlanReport& report);

}  // namespace longhaul
