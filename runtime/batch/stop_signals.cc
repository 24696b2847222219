#include "runtime/batch/stop_signals.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace longhaul {
namespace {

std::atomic<int> asked{0};
std::atomic<std::int64_t> asked_at{0};
static_assert(std::atomic<std::int64_t>::is_always_lock_free);  // else not for a signal handler
// A closed terminal, or a `timeout`, tells a process of it and then its group: the same stop twice.
constexpr std::int64_t kSameStop = 500;  // ms
unsigned grace_seconds = 0;
std::string& words() {
  static std::string text;  // not changed once the handlers are there
  return text;
}
const char* words_begin = nullptr;
std::size_t words_size = 0;

std::atomic<int> group{0};

std::int64_t milliseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

extern "C" void ask_to_stop(int signal) {
  const std::int64_t now = milliseconds();
  if (int none = 0; asked.compare_exchange_strong(none, signal)) {
    asked_at = now;
    ::alarm(grace_seconds);
  } else if (now - asked_at >= kSameStop) {
    end_group();
    ::_exit(128 + signal);
  }
}

extern "C" void stop_now(int) {
  end_group();
  // Whatever the job was in the middle of: its records are on disk.
  if (::write(STDERR_FILENO, words_begin, words_size) < 0) ::_exit(128 + asked);
  ::_exit(128 + asked);
}

}  // namespace

void watch_stop_signals(unsigned grace, const std::string& last_words) {
  grace_seconds = grace;
  words() = last_words;
  words_begin = words().data();
  words_size = words().size();
  struct sigaction ask {};
  ask.sa_handler = ask_to_stop;
  ask.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &ask, nullptr);
  ::sigaction(SIGTERM, &ask, nullptr);
  ::signal(SIGCHLD, SIG_DFL);  // where whoever started us ignores it, a converter's exit code would be lost
  struct sigaction had {};
  if (::sigaction(SIGHUP, nullptr, &had) == 0 && had.sa_handler != SIG_IGN)
    ::sigaction(SIGHUP, &ask, nullptr);  // nohup
  struct sigaction now {};
  now.sa_handler = stop_now;
  ::sigaction(SIGALRM, &now, nullptr);
}

void stop_if_asked() {
  if (const int signal = asked) throw Stopped{signal};
}

void ends_with_us(int of) { group = of; }
void end_group() {
  if (const int of = group) ::kill(-of, SIGKILL);
}

std::string stop_name(int signal) { return signal == SIGINT ? "Ctrl-C" : signal == SIGHUP ? "SIGHUP" : "SIGTERM"; }

}  // namespace longhaul
