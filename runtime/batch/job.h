// A batch from requests to records: documents are read and known by their content, what has no record yet is tokenized,
// so that the memory plan is known before the model is loaded; then requests are prefilled one by one and, by turns
// with that, decoded together (schedule.cc).
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/batch/input.h"
#include "runtime/batch/journal.h"
#include "runtime/batch/output.h"
#include "runtime/batch/overflow.h"
#include "runtime/batch/progress.h"
#include "runtime/batch/report.h"
#include "runtime/batch/turns.h"
#include "runtime/checkpoint/model_files.h"
#include "runtime/engine/engine.h"

namespace longhaul {

/// longest: so that the last ones to end are short, and few steps are taken with empty places.
enum class Order { longest, input };

/// What stands around a text document in its message.
struct PromptFrame {
  std::string before, after;
  std::string around(const std::string& text) const { return before + text + after; }
};
/// The document, a blank line and the instruction, if there is one.
PromptFrame instruction_frame(const std::string& instruction);
/// A text with "{document}" in it, once. Throws UserError{usage} naming `where`.
PromptFrame template_frame(const std::string& text, const std::string& where);

struct JobOptions {
  PromptFrame frame;
  SampleParams sampling;          // unless a request says otherwise
  std::int64_t max_tokens;        // likewise
  std::int64_t context;           // most tokens of prompt and answer together
  std::int64_t together = 8;      // most sessions of the engine
  std::int64_t share_unit = 512;  // rows that prompts share are whole units of so many
  Overflow overflow = Overflow::error;
  Order order = Order::longest;
  double prefill_share = 0.75;  // of the time, while others decode (turns.h)
};

class BatchJob {
 public:
  using OnAnswer = std::function<void(const BatchRequest&, const Answer&)>;

  /// The references must outlive the job. read(), prepare() and run() throw Stopped.
  BatchJob(const ModelFiles& model, std::vector<BatchRequest> requests, JobOptions options, Progress& progress,
           OnAnswer on_answer);
  /// Reads every document. One that `journal` says has ended the process twice is a failure, here and in prepare().
  void read(BatchJournal& journal);
  /// The custom_id of a document that was not read because reading it has ended the process; empty: there is none.
  std::string given_up_unread() const;
  /// Of the documents read.
  std::vector<InputKey> keys() const;

  /// Tokenizes the requests that `output` has no record of.
  void prepare(const BatchOutput& output, BatchJournal& journal);
  /// Requests that are ready to run, and the rows that the longest may need.
  std::int64_t ready() const { return static_cast<std::int64_t>(ready_.size()); }
  std::int64_t longest() const { return longest_; }
  /// That each may need, the longest first.
  std::vector<std::int64_t> lengths() const;
  /// Rows beside the longest that an engine should have room for, so that prompts which begin alike are prefilled
  /// together.
  std::int64_t shared_rest() const { return shared_rest_; }

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
    std::int64_t group = -1;            // of prompts that begin alike, which stand together; -1: none
    std::int64_t part = -1;             // of a document that is answered in parts; -1: the whole
    nlohmann::ordered_json notes = {};  // for the record

    std::int64_t rows() const { return static_cast<std::int64_t>(prompt.size()) + max_tokens; }
  };
  struct Active {
    std::int64_t index;
    Session session;
    bool alone;
    std::int64_t part;
    nlohmann::ordered_json notes;
    Progress::Clock::time_point first_token, last_token;
    std::unique_ptr<StreamDecoder> decoder;  // where a text may end the answer
    std::string text = {};                   // of the answer so far; likewise
    bool stopped = false;                    // such a text was there

    bool done() const { return stopped || session.done(); }
  };

  /// What is being prefilled, while others decode.
  struct Incoming {
    std::vector<Ready> ready;
    std::vector<Session> sessions;
    std::string name = {};
    std::int64_t tokens = 0;
    double work = 0;             // of the prompts, had each come alone
    double done = 0, total = 0;  // as the engine counts
    Progress::Clock::time_point start = Progress::Clock::now();

    double work_behind() const { return total > 0 ? work * done / total : 0; }
  };

  /// A document that is answered in parts, until one prompt holds what they were answered.
  struct Parts {
    std::vector<std::string> answers;  // of this round
    std::int64_t missing = 0, rounds = 0;
    std::int64_t first = 0, original = 0;                   // parts of the first round; tokens of the whole
    std::size_t bytes = 0;                                  // of what this round has split
    std::int64_t prompt_tokens = 0, completion_tokens = 0;  // of all of them
  };

  void prepare_one(std::int64_t index, bool alone);
  std::vector<Message> messages_of(std::int64_t index, const std::string& text) const;
  const std::string& long_text(std::int64_t index) const;
  Ready ready_of(std::int64_t index, std::vector<std::int32_t> prompt) const;
  void fit(std::int64_t index, Ready ready);
  void split(std::int64_t index, const std::string& text, bool alone);
  void part_done(const Active& done, const Answer& answer, BatchOutput& output);
  void give_up(std::int64_t index, const Failure& failure, BatchOutput& output);
  void find_groups();
  void sort_ready();
  std::int64_t group_size() const;
  bool may_admit(const Engine& engine, const std::vector<Active>& active, std::int64_t free) const;
  bool has_room(const Engine& engine, std::int64_t prompts) const;
  std::vector<Ready> take_next(const Engine& engine, std::span<const std::int64_t> slots,
                               std::vector<Session>& sessions);
  void tell_working(BatchJournal& journal, const std::vector<Active>& active) const;
  void prefill(Engine& engine, BatchJournal& journal, std::vector<std::int64_t>& free_slots,
               std::vector<Active>& active);
  void admit(Engine& engine, std::vector<std::int64_t>& free_slots);
  double advance(Engine& engine, std::vector<Active>& active, double turn);
  void take_in(std::vector<Active>& active);
  void push_ready(Ready ready, bool next = false);
  void decode(Engine& engine, std::vector<Active>& active);
  void look_for_stop(Active& active) const;
  void tell_left(const std::vector<Active>& active, double work_now, double seconds_now = 0);
  void answer(Active& done, BatchOutput& output);
  void fail(std::int64_t index, const Failure& failure, BatchOutput& output);
  std::string title_of(const Ready& ready) const;

  const ModelFiles& model_;
  std::vector<BatchRequest> requests_;
  JobOptions options_;
  Progress& progress_;
  OnAnswer on_answer_;
  std::deque<Ready> ready_;
  std::optional<Incoming> incoming_;
  Turns turns_;
  std::vector<std::pair<std::int64_t, Failure>> failures_;  // by request
  std::map<std::int64_t, Parts> parts_;                     // by request
  std::int64_t longest_ = 0, shared_rest_ = 0;
  double work_done_ = 0, work_left_ = 0;             // of prefills, as prompt_work counts it
  std::int64_t answered_ = 0, answered_tokens_ = 0;  // prompts that have ended, and what they were answered
  JobStats stats_;
};

/// Throws DocumentError{context_length_exceeded} when the prompt and its answer may not fit together.
void check_context(std::int64_t prompt, std::int64_t max_tokens, std::int64_t context);

}  // namespace longhaul
