// What a batch was working on when it ended badly: which ends count, and whose fault they are.
#include "runtime/batch/journal.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <optional>

#include "kernels/base/memory_groups.h"
#include "tests/support/catch.h"
#include "tests/support/fake_system.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

using test::ScratchDir;

struct Rig {
  ScratchDir dir;
  std::string output = (dir.path() / "out").string();
  std::int64_t oom_kills = 3;

  /// A run, in a process of its own, that ends as `end` does while `keys` are worked on. The signal that ended it.
  int run(const std::vector<std::string>& keys, const std::function<void(BatchJournal&)>& end, bool again = false) {
    const pid_t child = ::fork();
    if (child == 0) {
      BatchJournal journal(output, "job", [this] { return oom_kills; });
      if (again) journal.ask_again();
      journal.start();
      journal.working({"before"});
      journal.working(keys);
      end(journal);
      ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }
  Strikes of(const std::string& key, const std::string& job = "job") const {
    return BatchJournal(output, job, [this] { return oom_kills; }).of(key);
  }
};

TEST_CASE("a crash that the process tells itself is a strike for what it worked on") {
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT}) {
    Rig rig;
    CHECK(rig.run({"a", "b", "a"}, [&](BatchJournal&) { ::raise(signal); }) == signal);  // equal documents, too
    CHECK(rig.of("a").count == 1);
    CHECK(rig.of("b").count == 1);
    CHECK(rig.of("before").count == 0);
    CHECK(rig.run({"b"}, [&](BatchJournal&) { ::raise(SIGABRT); }) == SIGABRT);
    CHECK(rig.of("a").count == 1);
    CHECK(rig.of("b").count == 2);
    CHECK(rig.of("b").causes.ends_with(", SIGABRT"));
    CHECK(rig.of("b", "another job").count == 0);
  }
}

TEST_CASE("an abort is told as what it is, and so is a device failure") {
  Rig rig;
  CHECK(rig.run({"a"}, [](BatchJournal&) { ::abort(); }) == SIGABRT);
  CHECK(rig.run({"a"}, [](BatchJournal& journal) { journal.crashed("device failure: gone"); }) == 0);
  CHECK(rig.of("a").causes == "SIGABRT, device failure: gone");
}

TEST_CASE("a kill from outside, or an ordinary end, is nobody's fault") {
  Rig rig;
  CHECK(rig.run({"a"}, [](BatchJournal&) { ::raise(SIGKILL); }) == SIGKILL);
  CHECK(rig.of("a").count == 0);
  CHECK(rig.run({"a"}, [](BatchJournal&) { ::_exit(0); }) == 0);
  CHECK(rig.of("a").count == 0);
}

TEST_CASE("a kill while the count of oom kills has risen is a strike, once") {
  Rig rig;
  CHECK(rig.run({"a"}, [](BatchJournal&) { ::raise(SIGKILL); }) == SIGKILL);
  rig.oom_kills = 4;
  CHECK(rig.of("a").causes == "oom_kill");
  CHECK(rig.run({"b"}, [](BatchJournal&) { ::raise(SIGKILL); }) == SIGKILL);
  CHECK(rig.of("a").count == 1);
  CHECK(rig.of("b").count == 0);
  rig.oom_kills = 1;  // of another group: the machine was started anew
  CHECK(rig.of("b").count == 0);
  {
    BatchJournal ended(rig.output, "job", [] { return 1; });
    ended.start();
    ended.working({"c"});
  }
  rig.oom_kills = 9;
  CHECK(rig.of("c").count == 0);
  CHECK(rig.of("a").count == 1);
}

TEST_CASE("a converter that the kernel killed is not this process") {
  Rig rig;
  CHECK(rig.run({"a"}, [&](BatchJournal& journal) {
    rig.oom_kills = 4;
    journal.working({"b"});
    ::raise(SIGKILL);
  }) == SIGKILL);
  rig.oom_kills = 4;
  CHECK(rig.of("a").count + rig.of("b").count == 0);
  rig.oom_kills = 5;
  CHECK(rig.of("b").causes == "oom_kill");
}

TEST_CASE("a torn line is passed over, and what grows is cut") {
  Rig rig;
  {
    BatchJournal journal(rig.output, "job", [] { return 3; });
    journal.start();
    journal.working({"a"});
    journal.crashed("SIGSEGV");
    for (int i = 0; i < 20000; ++i) journal.working({std::string(32, 'k')});
  }
  CHECK(std::filesystem::file_size(journal_name(rig.output)) < (1 << 17));
  rig.dir.write("out.working", R"({"job":"job","oom_kills":3,"again":false})"
                               "\n{\"working\":[\"a\"]}\n{\"crash\":\"SIGSEGV\"}\n{\"working\":[\"b");
  CHECK(rig.of("a").count == 1);
  CHECK(rig.of("b").count == 0);
}

TEST_CASE("a job that is done leaves no journal, nor does one that was stopped and knows of no crash") {
  Rig rig;
  auto is_there = [&] { return std::filesystem::exists(journal_name(rig.output)); };
  {
    BatchJournal stopped(rig.output, "job", [] { return 3; });
    stopped.start();
    stopped.working({"a"});
    CHECK(is_there());
  }
  CHECK_FALSE(is_there());
  rig.run({"a"}, [](BatchJournal&) { ::raise(SIGSEGV); });
  {
    BatchJournal stopped(rig.output, "job", [] { return 3; });
    stopped.start();
  }
  CHECK(rig.of("a").count == 1);
  BatchJournal journal(rig.output, "job", [] { return 3; });
  journal.start();
  journal.finish();
  CHECK_FALSE(is_there());
}

TEST_CASE("asked again, a document has two more chances, however often that is said before the job has ended") {
  Rig rig;
  auto crash = [](BatchJournal&) { ::raise(SIGSEGV); };
  rig.run({"a"}, crash);
  rig.run({"a"}, crash);
  CHECK(rig.of("a").given_up());
  for (int strikes = 1; strikes <= 2; ++strikes) {
    rig.run({"a"}, crash, true);
    CHECK(rig.of("a").count == strikes);
  }
  CHECK(rig.run(
            {}, [](BatchJournal& journal) { journal.finish(); }, true) == 0);
  rig.run({"a"}, crash);
  CHECK(rig.of("a").count == 1);
  rig.run({"a"}, crash, true);
  CHECK(rig.of("a").count == 1);
}

TEST_CASE("what was given up unread stays so behind the job's end, until the file changes") {
  Rig rig;
  const auto file = rig.dir.write("doc", "text");
  const std::string key = unread_key(file);
  for (int i = 0; i < 2; ++i) rig.run({key, "b"}, [](BatchJournal&) { ::raise(SIGSEGV); });
  rig.run({}, [](BatchJournal& journal) { journal.finish(); });
  CHECK(rig.of(key).given_up());
  CHECK(rig.of("b").count == 0);
  CHECK(unread_key(file) == key);
  rig.dir.write("doc", "longer text");
  CHECK(unread_key(file) != key);
}

TEST_CASE("strikes of a document before and after it is read are one sum") {
  Rig rig;
  rig.run({"unread"}, [](BatchJournal&) { ::raise(SIGSEGV); });
  rig.run({"a"}, [](BatchJournal&) { ::raise(SIGBUS); });
  const Strikes both = BatchJournal(rig.output, "job", [] { return 3; }).of("a", "unread");
  CHECK(both.count == 2);
  CHECK(both.causes == "SIGSEGV, SIGBUS");
  CHECK(both.given_up().value().code == "process_ended");
}

TEST_CASE("the kernel's count of oom kills, of either version") {
  const test::FakeSystem v2, v1, none;
  v2.write("proc/self/cgroup", "0::/job\n");
  v2.write("sys/fs/cgroup/job/memory.events", "low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\n");
  CHECK(oom_kills(v2.root()) == 2);
  v1.write("proc/self/cgroup", "4:memory:/job\n");
  v1.write("sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n");
  CHECK(oom_kills(v1.root()) == 5);
  CHECK(oom_kills(none.root()) == 0);
}

}  // namespace
}  // namespace longhaul
