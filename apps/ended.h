// How a failure ends the command: an exit code and a line that says why.
#pragma once
#include <string>

#include "kernels/base/error.h"

namespace longhaul {

struct Ended {
  Exit exit;
  std::string message;
};
/// By the exception that is being handled.
Ended ended_by_exception();

}  // namespace longhaul
