// What a batch was working on when it ended badly, so that a document that brings the process down does not do so all
// night. A small file beside the output, read by the next run, removed by the last.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/batch/durable_file.h"

namespace longhaul {

/// How often and by what a document has ended the process.
struct Strikes {
  int count = 0;
  std::string causes;  // "SIGSEGV, oom_kill"
};

/// A cause counts when the process tells it itself: SIGSEGV, SIGBUS or SIGABRT in a signal handler that only writes a
/// file that is open already, a fatal device error, or a count of the control group's oom kills that has risen while a
/// document was worked on. A SIGKILL from outside leaves nothing of the kind.
class BatchJournal {
 public:
  static constexpr int kMostStrikes = 2;

  /// Reads what earlier runs of the job with this fingerprint have left; of another job's it takes nothing.
  /// `oom_kills`: the control group's count now.
  BatchJournal(const std::string& output, const std::string& fingerprint, std::int64_t oom_kills,
               Disk& disk = system_disk());
  BatchJournal(BatchJournal&&) = delete;
  /// Says that nothing is worked on any more, whatever ends the run.
  ~BatchJournal();

  /// By key of a document.
  const Strikes& of(const std::string& key) const;

  /// Documents get another chance.
  void forget() { strikes_.clear(); }
  /// Opens the file and installs the signal handler. Throws UserError{io}.
  void start();
  /// From here on a crash is the fault of one of these. Throws UserError{io}.
  void working(const std::vector<std::string>& keys);
  /// What is worked on has ended the run in a way that the process survived.
  void crashed(const std::string& cause);
  /// The job is done: removes the file.
  void finish();

 private:
  void read(const std::string& fingerprint);
  void strike(const std::string& cause);
  bool write(const std::string& line);
  void write_head();

  Disk& disk_;
  std::string file_, fingerprint_;
  std::int64_t oom_kills_;
  std::map<std::string, Strikes> strikes_;
  std::vector<std::string> working_;  // in the run before, while reading
  int fd_ = -1;
  std::int64_t size_ = 0;
};

std::string journal_name(const std::string& output);

}  // namespace longhaul
