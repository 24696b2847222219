// The command `longhaul` run as a user runs it.
#pragma once
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "paths.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

namespace longhaul::test {

struct Outcome {
  int exit;
  std::string out, err;
  std::int64_t peak_bytes = 0;  // most of the machine's memory that the command had at a time
};

/// Runs `longhaul ARGUMENTS` in `dir`; `setup` is what the shell does before.
inline Outcome run_command(const ScratchDir& dir, const std::string& arguments, const std::string& setup = ":") {
  const std::string command =
      "cd '" + dir.path().string() + "' && " + setup + " && " LONGHAUL_COMMAND " " + arguments + " >.out 2>.err";
  const pid_t shell = ::fork();
  if (shell == 0) {
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  rusage used{};
  REQUIRE(::wait4(shell, &status, 0, &used) == shell);
  Outcome outcome{WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text_of(dir.path() / ".out"),
                  text_of(dir.path() / ".err"), used.ru_maxrss * 1024};
  UNSCOPED_INFO("longhaul " << arguments << "\nexit " << outcome.exit << "\n" << outcome.out << outcome.err);
  return outcome;
}

/// Checks that the command ends with `exit` and one line on stderr that has `words` in it.
inline void check_refused(const ScratchDir& dir, const std::string& arguments, int exit, const std::string& words) {
  const Outcome outcome = run_command(dir, arguments);
  CHECK(outcome.exit == exit);
  CHECK(outcome.out.empty());
  CHECK_THAT(outcome.err, contains(words));
  CHECK(outcome.err.starts_with("longhaul: "));
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
}

}  // namespace longhaul::test
