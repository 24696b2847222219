// What a batch was working on when it ended badly, so that a document that brings the process down does not do so all
// night. A small file beside the output, read by the next run, removed by the last.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/durable_file.h"
#include "runtime/batch/record.h"

namespace longhaul {

/// How often and by what a document has ended the process.
struct Strikes {
  int count = 0;
  std::string causes;  // "SIGSEGV, oom_kill"

  void add(const Strikes& more);
  /// The failure of a document that is not tried again; none: it is.
  std::optional<Failure> given_up() const;
};

/// A cause counts when the process tells it itself: SIGSEGV, SIGBUS or SIGABRT in a signal handler that only writes a
/// file that is open already, a fatal device error, or a count of the control group's oom kills that has risen since
/// the process last told what it works on. A SIGKILL from outside leaves nothing of the kind.
class BatchJournal {
 public:
  static constexpr int kMostStrikes = 2;
  using OomKills = std::function<std::int64_t()>;  // the control group's count at this moment

  /// Reads what earlier runs of this job (a model and options; Manifest::job) have left; of another's it takes nothing.
  BatchJournal(const std::string& output, const std::string& job, OomKills oom_kills, Disk& disk = system_disk());
  BatchJournal(BatchJournal&&) = delete;
  /// Says that nothing is worked on any more, whatever ends the run; removes a file that tells of no crash.
  ~BatchJournal();

  /// By key of a document, and by the one it had before it was read, both together.
  Strikes of(const std::string& key, const std::string& unread = "") const;

  /// Documents get another chance, once: where a run that was told so has crashed and this one goes on for it, its
  /// strikes stay. So a restart with the same flags does not crash for ever.
  void ask_again();
  /// Opens the file and installs the signal handler. Throws UserError{io}.
  void start();
  /// From here on a crash is the fault of one of these. Throws UserError{io}.
  void working(const std::vector<std::string>& keys);
  /// What is worked on has ended the run in a way that the process survived.
  void crashed(const std::string& cause);
  /// The job is done: removes the file, unless documents were given up unread, whose records cannot say so to the next
  /// run.
  void finish();

 private:
  void read();
  void strike(const std::string& cause);
  bool write(const std::string& line);
  std::string job_line() const;
  void write_head();

  Disk& disk_;
  std::string file_, job_;
  OomKills oom_kills_;
  std::int64_t counted_;  // oom kills when that was last looked at
  bool again_ = false;    // ask_again() was said since the job last came to its end
  bool crashed_ = false;
  std::map<std::string, Strikes> strikes_;
  std::vector<std::string> working_;  // in the run before, while reading
  int fd_ = -1;
  std::int64_t size_ = 0;
};

std::string journal_name(const std::string& output);
/// The key of a document that is not read yet: its file, as it is now.
std::string unread_key(const std::filesystem::path& file);

}  // namespace longhaul
