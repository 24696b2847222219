// `longhaul batch` through what may happen to a process: stopped, crashed, doubled, and gone on with.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "paths.h"
#include "runtime/batch/input.h"
#include "tests/support/batch_files.h"
#include "tests/support/command.h"
#include "tests/support/running_command.h"
#include "tests/support/sanitizer.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace test;

const std::string kBatch =
    "batch --device cpu --log-level warn --max-tokens 8 --model " LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m ";

/// As long as no machine answers it while a shell looks away.
const std::string& long_document() {
  static const std::string text = document("The River", 600);
  return text;
}

TEST_CASE("SIGTERM and Ctrl-C end the job between steps, and it goes on from there") {
  ScratchDir dir;
  dir.write("short.txt", document("The Road", 1));
  dir.write("long.txt", document("The River", 120));
  const std::string batch = kBatch + "--input long.txt short.txt ";
  CHECK(run_command(dir, batch + "--output whole").exit == 0);
  for (const auto& [signal, name] : {std::pair{SIGTERM, "SIGTERM"}, {SIGINT, "Ctrl-C"}}) {
    const std::string out = fmt::format("out-{}", signal);
    RunningCommand job(dir, batch + "--print --output " + out, RunningCommand::Held::at_stdout);
    job.wait_until([&] { return !text_of(dir.path() / out).empty(); });
    job.send(signal);
    const Outcome stopped = job.finish();
    CHECK(stopped.exit == 128 + signal);
    CHECK_THAT(stopped.err, contains(fmt::format("longhaul: stopped by {}; 1 of 2 documents are in {}: the same "
                                                 "command goes on",
                                                 name, out)));
    CHECK(records(dir.path() / out).size() == 1);
    CHECK_FALSE(fs::exists(dir.path() / (out + ".working")));
    CHECK(run_command(dir, batch + "--output " + out).exit == 0);
    CHECK(records(dir.path() / out) == records(dir.path() / "whole"));
  }
}

TEST_CASE("a document that brings the process down twice becomes an error record, and the others are answered") {
  ScratchDir dir;
  for (const char* name : {"a", "b", "c"}) dir.write(std::string(name) + ".txt", document(name, 2));
  dir.write("bad.txt", long_document());
  const std::string batch = kBatch + "--input bad.txt a.txt b.txt c.txt --output out ";
  auto records_there = [&] {
    const std::string text = text_of(dir.path() / "out");
    return std::ranges::count(text, '\n');
  };
  // The last thing that the journal says is worked on.
  auto worked_on = [&]() -> std::string {
    const std::string text = text_of(dir.path() / "out.working");
    const std::size_t at = text.rfind("{\"working\":");
    const json line = json::parse(text.substr(std::min(at, text.size())), nullptr, false);
    return line.is_object() && line.at("working").size() == 1 ? line.at("working")[0] : "";
  };
  const std::string bad = content_key("text", clean_document(long_document(), ""));
  auto on_bad = [&] { return records_there() > 0 && worked_on() == bad; };
  {
    RunningCommand job(dir, batch, RunningCommand::Held::no);
    CHECK(job.end_where(on_bad, SIGSEGV).exit == 128 + SIGSEGV);
  }
  CHECK_THAT(text_of(dir.path() / "out.working"), contains("{\"crash\":\"SIGSEGV\"}"));
  {
    RunningCommand job(dir, batch, RunningCommand::Held::no);  // it comes last now, and alone
    CHECK(job.end_where([&] { return records_there() == 3 && on_bad(); }, SIGABRT).exit == 128 + SIGABRT);
  }
  const Outcome last = run_command(dir, batch);
  CHECK(last.exit == 1);
  const auto all = records(dir.path() / "out");
  REQUIRE(all.size() == 4);
  CHECK(all[0].at("error").at("code") == "process_ended");
  CHECK_THAT(all[0].at("error").at("message").get<std::string>(), contains("2 times") && contains("SIGSEGV, SIGABRT"));
  for (std::size_t i : {1, 2, 3}) CHECK(all[i].at("error").is_null());
  CHECK_FALSE(fs::exists(dir.path() / "out.working"));
}

/// A folder `bin` with a pdftotext of one's own, and the words that put it first.
std::string with_pdftotext(const ScratchDir& dir, const std::string& script) {
  fs::create_directories(dir.path() / "bin");
  fs::permissions(dir.write("bin/pdftotext", "#!/bin/sh\n" + script), fs::perms::owner_all);
  return "ulimit -c 0 && PATH=\"$PWD/bin:$PATH\" && export PATH";
}

TEST_CASE("a document that cannot be read without a crash is given up after two, and asked again once when told to") {
  ScratchDir dir;
  for (const char* name : {"a", "c"}) dir.write(std::string(name) + ".txt", document(name, 2));
  dir.write("bad.pdf", "%PDF");
  const std::string batch = kBatch + "--input a.txt bad.pdf c.txt --output out ";
  const std::string crash = with_pdftotext(dir, "kill -SEGV $PPID\n");
  for (int i = 0; i < 2; ++i) CHECK(run_command(dir, batch, crash).exit == 128 + SIGSEGV);
  CHECK(run_command(dir, batch, crash).exit == 1);
  const auto all = records(dir.path() / "out");
  REQUIRE(all.size() == 3);
  CHECK(all[1].at("error").at("code") == "process_ended");
  CHECK_THAT(all[1].at("error").at("message").get<std::string>(), contains("2 times") && contains("SIGSEGV, SIGSEGV"));
  CHECK(all[0].at("error").is_null());
  const std::string text = text_of(dir.path() / "out");
  CHECK(run_command(dir, batch, crash).exit == 1);  // nothing to do, and no crash
  CHECK(text_of(dir.path() / "out") == text);

  // As a supervisor that starts it anew after each crash.
  for (int i = 0; i < 2; ++i) CHECK(run_command(dir, batch + "--retry-errors", crash).exit == 128 + SIGSEGV);
  CHECK(run_command(dir, batch + "--retry-errors", crash).exit == 1);
  CHECK(records(dir.path() / "out") == all);
  const std::string sound = with_pdftotext(dir, "echo The Gate stood open.\n");
  CHECK(run_command(dir, batch, sound).exit == 1);
  CHECK(run_command(dir, batch + "--retry-errors", sound).exit == 0);
  CHECK(records(dir.path() / "out")[1].at("error").is_null());
  CHECK_FALSE(fs::exists(dir.path() / "out.working"));
}

/// Whether a process is there, and not only what is left of one until it is waited for.
bool is_alive(const std::string& pid) {
  const std::string status = text_of("/proc/" + pid.substr(0, pid.find('\n')) + "/stat");
  const std::size_t name_end = status.rfind(')');
  return name_end != std::string::npos && status.find_first_of("ZX", name_end) != name_end + 2;
}

/// A converter that hangs, and whether it and what it has started are there.
struct Sleeper {
  explicit Sleeper(const ScratchDir& dir)
      : dir(dir), setup(with_pdftotext(dir, "sleep 3000 &\necho $! >sleeper\necho $$ >shell\nwait\n")) {
    dir.write("a.pdf", "%PDF");
  }
  bool begun() const { return text_of(dir.path() / "shell").ends_with('\n'); }
  void check_gone() const {
    for (const char* process : {"shell", "sleeper"}) {
      const std::string pid = text_of(dir.path() / process);
      for (int i = 0; is_alive(pid) && i < 1000; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      CHECK_FALSE(is_alive(pid));
    }
  }
  const ScratchDir& dir;
  std::string setup;
};

TEST_CASE("a stop while a converter runs ends both, and comes twice from a terminal that closes") {
  for (const auto& [signal, name] : {std::pair{SIGTERM, "SIGTERM"}, {SIGHUP, "SIGHUP"}}) {
    const ScratchDir dir;
    const Sleeper sleeper(dir);
    RunningCommand job(dir, kBatch + "--input a.pdf --output out", RunningCommand::Held::no, sleeper.setup);
    job.wait_until([&] { return sleeper.begun(); });
    job.send(signal);
    job.send(signal);
    const Outcome stopped = job.finish();
    CHECK(stopped.exit == 128 + signal);
    CHECK_THAT(stopped.err,
               contains(fmt::format("longhaul: stopped by {}; the same command goes on from there", name)));
    sleeper.check_gone();
    CHECK_FALSE(fs::exists(dir.path() / "out"));
    CHECK_FALSE(fs::exists(dir.path() / "out.working"));
  }
}

TEST_CASE("a crash while a converter runs ends both") {
  const ScratchDir dir;
  const Sleeper sleeper(dir);
  RunningCommand job(dir, kBatch + "--input a.pdf --output out", RunningCommand::Held::no, sleeper.setup);
  job.wait_until([&] { return sleeper.begun(); });
  job.send(SIGABRT);
  CHECK(job.finish().exit == 128 + SIGABRT);
  sleeper.check_gone();
}

TEST_CASE("a job that does not come to a place to stop is ended by another signal") {
  if (kThreadSanitizer) return;  // it keeps signals back until a write is through
  const ScratchDir dir;
  dir.write("short.txt", document("The Road", 1));
  RunningCommand job(dir, kBatch + "--input short.txt --output out --print", RunningCommand::Held::at_stdout);
  job.wait_until([&] { return !text_of(dir.path() / "out").empty(); });
  job.send(SIGTERM);  // it stands in a write to a pipe that nobody reads
  std::this_thread::sleep_for(std::chrono::seconds(2));
  job.send(SIGINT);
  const Outcome ended = job.finish();
  CHECK(ended.exit == 128 + SIGINT);
  CHECK(ended.err.find("stopped by") == std::string::npos);
  CHECK(records(dir.path() / "out").size() == 1);
}

TEST_CASE("two jobs on one output: the second is refused") {
  ScratchDir dir;
  dir.write("short.txt", document("The Road", 1));
  dir.write("long.txt", document("The River", 120));
  const std::string batch = kBatch + "--input long.txt short.txt --output out";
  RunningCommand first(dir, batch + " --print", RunningCommand::Held::at_stdout);
  first.wait_until([&] { return !text_of(dir.path() / "out").empty(); });
  const ScratchDir elsewhere;  // for what the second says
  check_refused(elsewhere, kBatch + fmt::format("--input {0}/long.txt --output {0}/out", dir.path().string()), 8,
                "another job is writing it");
  first.send(SIGTERM);
  CHECK(first.finish().exit == 128 + SIGTERM);
}

}  // namespace
}  // namespace longhaul
