// A batch from requests to records: documents are read and known by their content, what has no record yet is tokenized,
// so that the memory plan is known before the model is loaded; then requests are prefilled one by one and decoded
// together.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/batch_input.h"
#include "runtime/batch_journal.h"
#include "runtime/batch_output.h"
#include "runtime/engine.h"
#include "runtime/model_files.h"
#include "runtime/progress.h"
#include "runtime/report.h"

namespace longhaul {

/// longest: so that the last ones to end are short, and few steps are taken with empty places.
enum class Order { longest, input };

struct JobOptions {
  std::string instruction;  // what follows each text document
  SampleParams sampling;    // unless a request says otherwise
  std::int64_t max_tokens;  // likewise
  std::int64_t context;     // most tokens of prompt and answer together
  Order order = Order::longest;
};

class BatchJob {
 public:
  using OnAnswer = std::function<void(const BatchRequest&, const Answer&)>;

  /// Reads every document. The references must outlive the job. Throws Stopped, as prepare() and run() do.
  BatchJob(const ModelFiles& model, std::vector<BatchRequest> requests, JobOptions options, Progress& progress,
           OnAnswer on_answer);
  std::vector<InputKey> keys() const;

  /// Tokenizes the requests that `output` has no record of. One that `journal` says has ended the process twice is a
  /// failure.
  void prepare(const BatchOutput& output, const BatchJournal& journal);
  /// Requests that are ready to run, and the rows that the longest may need.
  std::int64_t ready() const { return static_cast<std::int64_t>(ready_.size()); }
  std::int64_t longest() const { return longest_; }

  /// Writes the records of the requests that never got ready.
  void record_failures(BatchOutput& output);
  /// Answers what is ready, at most engine.options().max_sessions together; the first alone, so that something is done
  /// for good early on, and what may have ended an earlier run alone, too. DeviceError and OutOfMemory end the job;
  /// the records so far are on disk.
  void run(Engine& engine, BatchOutput& output, BatchJournal& journal);
  const JobStats& stats() const { return stats_; }

 private:
  struct Ready {
    std::int64_t index;  // of the request
    std::vector<std::int32_t> prompt;
    SampleParams sampling;
    std::int64_t max_tokens;
    bool alone = false;

    std::int64_t rows() const { return static_cast<std::int64_t>(prompt.size()) + max_tokens; }
  };
  struct Active {
    std::int64_t index;
    Session session;
    bool alone;
    Progress::Clock::time_point first_token;
    std::unique_ptr<StreamDecoder> decoder;  // where a text may end the answer
    std::string text = {};                   // of the answer so far; likewise
    bool stopped = false;                    // such a text was there

    bool done() const { return stopped || session.done(); }
  };

  Ready prepare_one(std::int64_t index);
  void sort_ready();
  bool may_admit(const std::vector<Active>& active) const;
  void admit(Engine& engine, BatchJournal& journal, std::int64_t slot, std::vector<Active>& active);
  void decode(Engine& engine, std::vector<Active>& active);
  void look_for_stop(Active& active) const;
  void answer(Active& done, BatchOutput& output);
  void fail(std::int64_t index, const Failure& failure, BatchOutput& output);
  std::string name_of(std::int64_t index) const { return requests_[static_cast<std::size_t>(index)].custom_id; }

  const ModelFiles& model_;
  std::vector<BatchRequest> requests_;
  std::vector<std::string> texts_;  // of documents, until they are tokenized
  JobOptions options_;
  Progress& progress_;
  OnAnswer on_answer_;
  std::deque<Ready> ready_;
  std::vector<std::pair<std::int64_t, Failure>> failures_;  // by request
  std::int64_t longest_ = 0;
  JobStats stats_;
};

/// Throws DocumentError{context_length_exceeded} when the prompt and its answer may not fit together.
void check_context(std::int64_t prompt, std::int64_t max_tokens, std::int64_t context);

}  // namespace longhaul
