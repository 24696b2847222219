// For programs: what the command says beside its progress, as events on the same stream, an event a line.
#pragma once
#include <optional>
#include <string>

#include "kernels/base/error.h"

namespace longhaul {

/// From now on what is logged is {"event":"log","level":"info","message":"..."}.
void log_as_events();
/// {"event":"error","exit":143,"message":"..."} and a line's end; without "exit" where that is not known yet.
std::string error_event(const std::string& message, std::optional<Exit> exit = {});

}  // namespace longhaul
