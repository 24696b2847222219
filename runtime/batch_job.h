// A batch from requests to records: every prompt is tokenized first, so that the memory plan is known before the model
// is loaded; then requests are prefilled one by one and decoded together.
#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/batch_input.h"
#include "runtime/batch_output.h"
#include "runtime/engine.h"
#include "runtime/model_files.h"
#include "runtime/progress.h"
#include "runtime/report.h"

namespace longhaul {

struct JobOptions {
  std::string instruction;  // what follows each text document
  SampleParams sampling;    // unless a request says otherwise
  std::int64_t max_tokens;  // likewise
  std::int64_t context;     // most tokens of prompt and answer together
};

class BatchJob {
 public:
  using OnAnswer = std::function<void(const BatchRequest&, const Answer&)>;

  /// Tokenizes every request. The references must outlive the job.
  BatchJob(const ModelFiles& model, std::vector<BatchRequest> requests, JobOptions options, BatchOutput& output,
           Progress& progress, OnAnswer on_answer);

  /// Requests that are ready to run, and the rows that the longest may need.
  std::int64_t ready() const { return static_cast<std::int64_t>(ready_.size()); }
  std::int64_t longest() const { return longest_; }

  /// Writes the records of the requests that never got ready. Comes after everything that could stop the job from
  /// beginning: an output that holds a record is not begun again.
  void record_failures();
  /// Answers what is ready, at most engine.options().max_sessions together. DeviceError and OutOfMemory end the job;
  /// the records so far are on disk.
  void run(Engine& engine);
  const JobStats& stats() const { return stats_; }

 private:
  struct Ready {
    std::int64_t index;  // of the request
    std::vector<std::int32_t> prompt;
    SampleParams sampling;
    std::int64_t max_tokens;
  };
  struct Active {
    std::int64_t index;
    Session session;
  };

  Ready prepare(std::int64_t index);
  void admit(Engine& engine, Ready next, std::int64_t slot, std::vector<Active>& active);
  void decode(Engine& engine, std::vector<Active>& active);
  void answer(const Active& done);
  void fail(std::int64_t index, const Failure& failure);

  const ModelFiles& model_;
  std::vector<BatchRequest> requests_;
  JobOptions options_;
  BatchOutput& output_;
  Progress& progress_;
  OnAnswer on_answer_;
  std::vector<Ready> ready_;
  std::vector<std::pair<std::int64_t, Failure>> failures_;  // by request
  std::int64_t longest_ = 0;
  JobStats stats_;
};

/// Throws DocumentError{context_length_exceeded} when the prompt and its answer may not fit together.
void check_context(std::int64_t prompt, std::int64_t max_tokens, std::int64_t context);

}  // namespace longhaul
