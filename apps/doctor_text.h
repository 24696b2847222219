// A machine's report, for people and for programs.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/plan/doctor.h"

namespace longhaul {

/// A line a topic; advice last.
std::string doctor_text(const MachineReport& report, const std::string& profile_file);
nlohmann::ordered_json doctor_json(const MachineReport& report, const std::string& profile_file);

}  // namespace longhaul
