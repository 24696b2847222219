#include "runtime/batch/crash_signals.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <string_view>
#include <utility>

#include "runtime/batch/stop_signals.h"

namespace longhaul {
namespace {

std::atomic<int> crash_fd{-1};
static_assert(std::atomic<int>::is_always_lock_free);  // else not for a signal handler

constexpr std::array<std::pair<int, std::string_view>, 3> kLines{{{SIGSEGV, "{\"crash\":\"SIGSEGV\"}\n"},
                                                                  {SIGBUS, "{\"crash\":\"SIGBUS\"}\n"},
                                                                  {SIGABRT, "{\"crash\":\"SIGABRT\"}\n"}}};

extern "C" void note_crash(int signal) {
  const int fd = crash_fd.exchange(-1);
  for (const auto& [number, line] : kLines)
    if (number == signal && fd >= 0 && ::write(fd, line.data(), line.size()) > 0) ::fsync(fd);
  end_group();
  ::raise(signal);  // the handler is reset: the system's own way to end
}

}  // namespace

void note_crashes_in(int fd) {
  crash_fd = fd;
  if (fd < 0) return;
  static std::array<char, 1 << 16> stack;  // a stack overflow has none left
  stack_t own{};
  own.ss_sp = stack.data();
  own.ss_size = stack.size();
  ::sigaltstack(&own, nullptr);
  struct sigaction action {};
  action.sa_handler = note_crash;
  action.sa_flags = SA_ONSTACK | static_cast<int>(SA_RESETHAND);
  for (const auto& [number, line] : kLines) ::sigaction(number, &action, nullptr);
}

}  // namespace longhaul
