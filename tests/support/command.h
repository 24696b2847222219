// The command `longhaul` run as a user runs it.
#pragma once
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>

#include "paths.h"
#include "tests/support/catch.h"
#include "tests/support/scratch_dir.h"

namespace longhaul::test {

inline std::string text_of(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

struct Outcome {
  int exit;
  std::string out, err;
};

/// Runs `longhaul ARGUMENTS` in `dir`.
inline Outcome run_command(const ScratchDir& dir, const std::string& arguments) {
  const std::string command = "cd '" + dir.path().string() + "' && " LONGHAUL_COMMAND " " + arguments + " >.out 2>.err";
  const int status = std::system(command.c_str());
  Outcome outcome{WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text_of(dir.path() / ".out"),
                  text_of(dir.path() / ".err")};
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
