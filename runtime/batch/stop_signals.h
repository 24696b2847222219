// Ctrl-C, SIGTERM and a closed terminal end a long job at the next step or prefill chunk, with all that is done on
// disk.
#pragma once
#include <string>

namespace longhaul {

/// A stop was asked for; thrown where the job can end.
struct Stopped {
  int signal;
};

/// From now on the first SIGINT, SIGTERM or SIGHUP asks the job to stop; another, half a second later or more, ends the
/// process at once. Where the job does not come to a place to stop within `grace` seconds (a load), the process says
/// `last_words` and ends with 128 + signal.
void watch_stop_signals(unsigned grace, const std::string& last_words);
/// Throws Stopped when a stop was asked for.
void stop_if_asked();

/// A process group that ends with this process where a stop or a crash ends that; 0: none.
void ends_with_us(int group);
/// Ends it. For signal handlers, too.
void end_group();

/// "SIGTERM", "Ctrl-C", "SIGHUP".
std::string stop_name(int signal);

}  // namespace longhaul
