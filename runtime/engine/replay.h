// From a trace file to rows that an engine replays (offload/replay.h).
#pragma once
#include <memory>
#include <string>

#include "offload/replay.h"

namespace longhaul {

/// The first session of the trace's first `steps` steps. Throws UserError{io} for a file that is no trace, {usage} for
/// one whose steps selected another number of rows than `budget` (by more than a twentieth).
std::shared_ptr<const Replay> load_replay(const std::string& file, std::int64_t steps, std::int64_t budget,
                                          double recall);
/// No row comes again before all others have: the least reuse that selection can have.
std::shared_ptr<const Replay> no_reuse(double recall);

}  // namespace longhaul
