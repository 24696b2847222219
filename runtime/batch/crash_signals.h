// SIGSEGV, SIGBUS and SIGABRT leave a line in a file before they end the process.
#pragma once

namespace longhaul {

/// From now on the line {"crash":"SIGSEGV"} (or SIGBUS, SIGABRT) is appended to `fd`, which outlives this; -1: to
/// nothing. The process then ends as it would have. Handlers run on a stack of their own.
void note_crashes_in(int fd);

}  // namespace longhaul
