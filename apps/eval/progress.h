// How an evaluation is getting on: one line that is rewritten on a terminal, else a plain line every ten seconds.
#pragma once
#include <cstdint>
#include <string>

#include "runtime/batch/progress.h"

namespace longhaul::eval {

class EvalProgress {
 public:
  explicit EvalProgress(bool terminal) : terminal_(terminal) {}
  ~EvalProgress() { clear(); }

  /// Documents times variants that are still to be answered in this run.
  void expect(std::int64_t answers) { expected_ = answers; }
  void task(const std::string& name) { task_ = name; }
  void cell(const std::string& policy, const std::string& share);
  void prefill(std::int64_t tokens, double share);
  void stepped(std::int64_t tokens);
  void document_done();
  void clear();

 private:
  void show(const std::string& what);

  bool terminal_, open_ = false;
  std::int64_t expected_ = 0, done_ = 0, tokens_ = 0;
  std::string task_, cell_;
  Progress::Clock::time_point start_ = Progress::Clock::now(), shown_ = start_;
};

}  // namespace longhaul::eval
