// What a batch leaves on disk when its process dies at any point, or its disk fails: no acknowledged record is lost, no
// record is there twice, and the next run ends with the file that an uninterrupted one makes.
#include <sys/wait.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "kernels/base/error.h"
#include "runtime/batch/journal.h"
#include "runtime/batch/output.h"
#include "tests/support/batch_files.h"
#include "tests/support/catch.h"
#include "tests/support/faulty_disk.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using test::contains;
using test::FaultyDisk;
using test::records;
using test::ScratchDir;
using test::text_of;

/// A job without a model: five documents, two of them alike, one of them bad; some end out of order.
struct FakeJob {
  std::vector<InputKey> inputs;
  BatchOutput::Resume resume = {};

  FakeJob() {
    for (const char* name : {"a", "b", "c", "d", "e"})
      inputs.push_back({content_key("text", name == std::string("d") ? "b" : name), name});
  }
  /// Writes to `acknowledged` what append() has promised.
  void run(const fs::path& dir, FaultyDisk& disk) const {
    BatchOutput output(dir / "out", disk);
    const Manifest manifest({{"name", "m"}}, {{"max_tokens", 8}});
    output.expect(manifest, resume);
    BatchJournal journal(
        output.file(), manifest.job(), [] { return 0; }, disk);
    if (resume.fresh || resume.retry_errors) journal.ask_again();
    journal.start();
    output.match(manifest.of_inputs(inputs), inputs, resume);
    output.start();
    std::ofstream acknowledged(dir / "acknowledged", std::ios::app);
    for (const std::int64_t i : {3, 0, 4, 1, 2}) {
      if (output.has(i)) continue;
      const std::string& name = inputs[static_cast<std::size_t>(i)].custom_id;
      journal.working({inputs[static_cast<std::size_t>(i)].content});
      if (name == "c") output.append(i, Failure{"empty_document", "nothing in it"});
      else output.append(i, Answer{"words about " + name, "m", "stop", 10, 3});
      acknowledged << name << std::endl;
      journal.working({});
    }
    output.finish();
    journal.finish();
  }
  /// How it ends when that is in a child process of its own.
  int run_in_child(const fs::path& dir, FaultyDisk& disk) const {
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        run(dir, disk);
        ::_exit(0);
      } catch (...) {
        ::_exit(1);
      }
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
};

/// Whole lines only.
std::multiset<std::string> names_in(const fs::path& file) {
  std::string text = text_of(file);
  text.resize(text.rfind('\n') + 1);
  std::istringstream lines(text);
  std::multiset<std::string> names;
  for (std::string line; std::getline(lines, line);)
    if (const auto record = nlohmann::json::parse(line, nullptr, false); record.is_object())
      names.insert(record["custom_id"].get<std::string>());
  return names;
}

std::set<std::string> acknowledged_in(const fs::path& dir) {
  std::istringstream lines(text_of(dir / "acknowledged"));
  std::set<std::string> names;
  for (std::string line; std::getline(lines, line);) names.insert(line);
  return names;
}

std::vector<nlohmann::json> uninterrupted() {
  ScratchDir dir(ScratchDir::in_memory());
  FaultyDisk disk;
  FakeJob().run(dir.path(), disk);
  return records(dir.path() / "out");
}

/// What holds after every end: nothing twice, nothing that was promised lost; then the job is run to its end.
void check_and_finish(const ScratchDir& dir, const FakeJob& job, const std::vector<nlohmann::json>& expected) {
  const auto names = names_in(dir.path() / "out");
  for (const std::string& name : acknowledged_in(dir.path())) CHECK(names.count(name) == 1);
  for (const std::string& name : names) CHECK(names.count(name) == 1);
  FaultyDisk disk;
  job.run(dir.path(), disk);
  CHECK(records(dir.path() / "out") == expected);
  CHECK_FALSE(fs::exists(dir.path() / "out.working"));
  CHECK_FALSE(fs::exists(dir.path() / "out.longhaul-new"));
  CHECK_FALSE(fs::exists(dir.path() / "out.manifest.longhaul-new"));
}

/// A folder to begin in, and the job to run there.
struct Scene {
  const char* name;
  std::function<void(const ScratchDir&)> prepare;
  BatchOutput::Resume resume = {};
};

const std::vector<Scene>& scenes() {
  static const auto partly = [](const ScratchDir& dir) {
    FaultyDisk disk;
    disk.room = 1700;  // of the manifest, the journal and some records
    CHECK_THROWS_AS(FakeJob().run(dir.path(), disk), UserError);
    REQUIRE(names_in(dir.path() / "out").size() >= 1);
    std::ofstream(dir.path() / "out", std::ios::app) << "{\"id\": \"batch_req_";
  };
  static const auto whole = [](const ScratchDir& dir) {
    FaultyDisk disk;
    FakeJob().run(dir.path(), disk);
    fs::remove(dir.path() / "acknowledged");
  };
  static const std::vector<Scene> all{{"a new job", [](const ScratchDir&) {}},
                                      {"one that goes on behind a torn record", partly},
                                      {"one that asks errors again", whole, {.retry_errors = true}},
                                      {"one that starts over", whole, {.fresh = true}}};
  return all;
}

TEST_CASE("a process may die at any point of the protocol") {
  const auto expected = uninterrupted();
  std::set<std::string> hit;
  for (const Scene& scene : scenes())
    for (const bool forget : {false, true}) {
      FakeJob job;
      job.resume = scene.resume;
      for (std::int64_t point = 0;; ++point) {
        ScratchDir dir(ScratchDir::in_memory());
        scene.prepare(dir);
        FaultyDisk disk;
        disk.kill_at = point;
        disk.forget = forget;
        const int end = job.run_in_child(dir.path(), disk);
        if (end == 0) break;  // all points are behind
        INFO(scene.name << ", point " << point);
        REQUIRE(end == FaultyDisk::kKilled);
        // To start over is said once; so is to ask errors again, which has then begun or not.
        FakeJob next = job;
        if (!acknowledged_in(dir.path()).empty()) next.resume.fresh = false;
        check_and_finish(dir, next, expected);
      }
      ScratchDir dir(ScratchDir::in_memory());
      scene.prepare(dir);
      FaultyDisk disk;
      job.run(dir.path(), disk);
      hit.insert(disk.points.begin(), disk.points.end());
    }
  std::string list;
  for (const std::string& name : hit) list += name + "\n";
  INFO(list);
  CHECK(hit.size() >= 30);
  for (const char* part :
       {"output.open",          "manifest.open", "manifest.write", "manifest.sync", "manifest.rename",
        "manifest.sync_folder", "working.open",  "working.write",  "record.write",  "record.sync",
        "torn.truncate",        "torn.sync",     "fresh.truncate", "retry.write",   "retry.rename",
        "finish.open",          "finish.write",  "finish.sync",    "finish.rename", "finish.sync_folder"})
    for (const char* when : {"before ", "after "}) CHECK(hit.contains(std::string(when) + part));
}

TEST_CASE("a disk may be full at any byte") {
  const auto expected = uninterrupted();
  const FakeJob job;
  std::int64_t room = 0;
  for (bool full = true; full; ++room) {
    ScratchDir dir(ScratchDir::in_memory());
    FaultyDisk disk;
    disk.room = room;
    full = false;
    try {
      job.run(dir.path(), disk);
    } catch (const UserError& e) {
      full = true;
      REQUIRE(e.code == Exit::io);
      REQUIRE_THAT(e.what(), contains("No space left on device") && contains("the same command"));
    }
    check_and_finish(dir, job, expected);
  }
  CHECK(room > 2000);
}

TEST_CASE("any call may fail") {
  const auto expected = uninterrupted();
  for (const Scene& scene : scenes()) {
    FakeJob job;
    job.resume = scene.resume;
    ScratchDir whole(ScratchDir::in_memory());
    scene.prepare(whole);
    FaultyDisk sound;
    job.run(whole.path(), sound);
    std::set<std::string> calls;
    for (const std::string& point : sound.points)
      if (point.starts_with("before ")) calls.insert(point.substr(7));
    for (const std::string& call : calls) {
      ScratchDir dir(ScratchDir::in_memory());
      scene.prepare(dir);
      FaultyDisk disk;
      disk.fail_at = call;
      bool failed = false;
      try {
        job.run(dir.path(), disk);
      } catch (const UserError& e) {
        failed = true;
        CHECK(e.code == Exit::io);
        CHECK_THAT(e.what(), contains("Input/output error"));
      }
      INFO(scene.name << ", " << call);
      CHECK(failed == !call.ends_with(".remove"));  // to tidy up is no duty
      FakeJob next = job;
      if (!acknowledged_in(dir.path()).empty()) next.resume.fresh = false;
      check_and_finish(dir, next, expected);
    }
  }
}

}  // namespace
}  // namespace longhaul
