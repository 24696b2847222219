#include "runtime/batch/stop_signals.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace longhaul {
namespace {

std::atomic<int> asked{0};
unsigned grace_seconds = 0;
std::string& words() {
  static std::string text;  // not changed once the handlers are there
  return text;
}
const char* words_begin = nullptr;
std::size_t words_size = 0;

std::atomic<int> group{0};

void end_group() {
  if (const int of = group) ::kill(-of, SIGKILL);
}

extern "C" void ask_to_stop(int signal) {
  if (asked.exchange(signal) != 0) {
    end_group();
    ::_exit(128 + signal);
  }
  ::alarm(grace_seconds);
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

std::string stop_name(int signal) { return signal == SIGINT ? "Ctrl-C" : signal == SIGHUP ? "SIGHUP" : "SIGTERM"; }

}  // namespace longhaul
