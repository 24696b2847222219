// The command `longhaul` while it runs, so that things can happen to it.
#pragma once
#include <fcntl.h>
#include <signal.h>

#include <chrono>
#include <functional>
#include <thread>

#include "kernels/base/file.h"
#include "tests/support/command.h"

namespace longhaul::test {

class RunningCommand {
 public:
  /// Where it stands: at its first word on stdout, which is a pipe that is full; nowhere.
  enum class Held { at_stdout, no };

  /// Runs `longhaul ARGUMENTS` in `dir`; `setup` is what the shell does before.
  RunningCommand(const ScratchDir& dir, const std::string& arguments, Held held, const std::string& setup = ":")
      : dir_(dir) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    out_ = ends[0];
    if (held == Held::at_stdout) fill(ends[1]);
    const std::string command = "cd '" + dir.path().string() + "' && ulimit -c 0 && " + setup + " && exec " +
                                LONGHAUL_COMMAND " " + arguments + " 2>.err";
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(ends[1], STDOUT_FILENO);
      ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(ends[1]);
  }
  RunningCommand(const RunningCommand&) = delete;
  ~RunningCommand() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(out_);
  }

  /// Until that is so; a test that waits for minutes has failed, and so has one whose command ends meanwhile.
  void wait_until(const std::function<bool()>& holds) const {
    for (int i = 0; !holds(); ++i) {
      REQUIRE(i < 12000);
      REQUIRE(::waitpid(pid_, nullptr, WNOHANG) == 0);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  /// Stops it where `holds` is so, with nothing happening in between, sends the signal and lets it run on to its end.
  Outcome end_where(const std::function<bool()>& holds, int signal) {
    for (;;) {
      wait_until(holds);
      ::kill(pid_, SIGSTOP);
      int status = 0;
      REQUIRE(::waitpid(pid_, &status, WUNTRACED) == pid_);
      REQUIRE(WIFSTOPPED(status));
      if (holds()) break;
      ::kill(pid_, SIGCONT);
    }
    ::kill(pid_, signal);
    ::kill(pid_, SIGCONT);
    return finish();
  }
  void send(int signal) const { ::kill(pid_, signal); }
  /// Reads what it says, which lets it go on, and waits for its end.
  Outcome finish() {
    std::string out = read_file(out_, "stdout");
    int status = 0;
    REQUIRE(::waitpid(pid_, &status, 0) == pid_);
    pid_ = -1;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), std::move(out),
            text_of(dir_.path() / ".err")};
  }

 private:
  static void fill(int pipe) {
    ::fcntl(pipe, F_SETFL, O_NONBLOCK);
    const std::string page(4096, ' ');
    while (::write(pipe, page.data(), page.size()) > 0) {
    }
    while (::write(pipe, " ", 1) > 0) {
    }
    ::fcntl(pipe, F_SETFL, 0);
  }

  const ScratchDir& dir_;
  int out_ = -1;
  pid_t pid_ = -1;
};

}  // namespace longhaul::test
