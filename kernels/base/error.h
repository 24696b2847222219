// The three kinds of error and the exit code each ends the process with. Messages are one line: what, where, what to
// do.
#pragma once
#include <fmt/format.h>

#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>

namespace longhaul {

enum class Exit : int {
  ok = 0,
  failed_documents = 1,  // the job finished, some documents are error records
  usage = 2,             // command line, config, or an output that is not this job's
  bad_model = 3,
  plan_does_not_fit = 4,
  io = 5,
  out_of_memory = 6,
  device = 7,
  locked = 8,
  internal = 70,  // a mistake of ours, never the user's
};

/// A mistake that the user can mend: a flag, a file, a budget. `code` is the process's exit code.
class UserError : public std::runtime_error {
 public:
  template <class... Args>
  UserError(Exit exit, fmt::format_string<Args...> text, Args&&... args)
      : std::runtime_error(fmt::format(text, std::forward<Args>(args)...)), code(exit) {}
  Exit code;
};

/// Thrown by whoever hands out bytes: the device budget, the arena, host memory.
class OutOfMemory : public std::runtime_error {
 public:
  OutOfMemory(std::string where, std::int64_t asked, std::int64_t left);
  std::string where;
  std::int64_t asked, left;  // bytes; below 0: not known, and not told
};

/// The device failed; nothing computed after it counts.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A broken promise between our own functions (std::logic_error naming the call site); never a user's mistake.
void check(bool ok, const char* what, std::source_location at = std::source_location::current());

}  // namespace longhaul
