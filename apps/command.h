// The command `longhaul`: verbs, and how every failure ends: one line on stderr and the exit code of its kind.
#pragma once
#include "kernels/base/error.h"

namespace longhaul {

Exit command(int argc, const char* const* argv);

}  // namespace longhaul
