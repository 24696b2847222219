#include "runtime/batch/job.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "runtime/batch/pace.h"
#include "runtime/batch/stop_signals.h"

namespace longhaul {

BatchJob::BatchJob(const ModelFiles& model, std::vector<BatchRequest> requests, JobOptions options, Progress& progress,
                   OnAnswer on_answer)
    : model_(model),
      requests_(std::move(requests)),
      options_(std::move(options)),
      progress_(progress),
      on_answer_(std::move(on_answer)),
      turns_(options_.prefill_share) {}

void BatchJob::read(BatchJournal& journal) {
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    BatchRequest& request = requests_[i];
    stop_if_asked();
    progress_.reading(static_cast<std::int64_t>(i) + 1);
    if (!request.document.empty() && !request.failure) {
      request.unread = unread_key(request.document);
      request.failure = journal.of(request.unread).given_up();
      journal.working({request.unread});
    }
    read_request(request);
  }
  journal.working({});
}

std::string BatchJob::given_up_unread() const {
  const auto one = std::ranges::find_if(requests_, [](const BatchRequest& request) {
    return !request.unread.empty() && request.failure && request.failure->code == "process_ended";
  });
  return one == requests_.end() ? "" : one->custom_id;
}

std::vector<InputKey> BatchJob::keys() const {
  std::vector<InputKey> keys;
  for (const BatchRequest& request : requests_) keys.push_back({request.content, request.custom_id});
  return keys;
}

void BatchJob::prepare(const BatchOutput& output, BatchJournal& journal) {
  for (std::int64_t i = 0; i < std::ssize(requests_); ++i) {
    stop_if_asked();
    if (output.has(i)) {
      requests_[i].let_go();
      continue;
    }
    progress_.tokenizing(i + 1);
    const Strikes strikes = journal.of(requests_[i].content, requests_[i].unread);
    journal.working({requests_[i].content});
    try {
      if (const auto failure = strikes.given_up()) throw DocumentError(failure->code, failure->message);
      prepare_one(i, strikes.count > 0);
    } catch (const DocumentError& e) {
      failures_.push_back({i, {e.code, e.what()}});
    } catch (const UserError& e) {
      if (e.code == Exit::bad_model) throw;
      failures_.push_back({i, {"invalid_request", e.what()}});  // in the template's words, or the tokenizer's
    }
    requests_[i].let_go();
  }
  journal.working({});
  for (const Ready& ready : ready_) longest_ = std::max(longest_, ready.rows());
  if (!parts_.empty()) longest_ = options_.context;  // as long as what puts parts' answers together may get
  find_groups();
  sort_ready();
}

std::vector<std::int64_t> BatchJob::lengths() const {
  std::vector<std::int64_t> rows(parts_.size(), options_.context);  // of prompts that put parts' answers together
  for (const Ready& ready : ready_) rows.push_back(ready.rows());
  std::ranges::sort(rows, std::greater{});
  return rows;
}

/// From what prefills and steps have taken so far, and how long answers were. `work_now`: that a prefill under way has
/// done; `seconds_now`: since its last piece was counted.
void BatchJob::tell_left(const std::vector<Active>& active, double work_now, double seconds_now) {
  const double expected = answered_ > 0 ? static_cast<double>(answered_tokens_) / static_cast<double>(answered_)
                                        : static_cast<double>(options_.max_tokens);
  double tokens = static_cast<double>(ready_.size() + (incoming_ ? incoming_->ready.size() : 0)) * expected;
  for (const Active& a : active) tokens += std::max(expected - static_cast<double>(a.session.answer_size()), 0.0);
  const Pace pace{.work = work_done_ + work_now,
                  .prefill_seconds = stats_.prefill_seconds + seconds_now,
                  .tokens = stats_.decoded_tokens,
                  .decode_seconds = stats_.decode_seconds};
  if (const auto seconds = pace.seconds_for(work_left_ - work_now, tokens)) progress_.left(*seconds);
}

void BatchJob::look_for_stop(Active& a) const {
  const std::vector<std::string>& stops = requests_[a.index].stop;
  if (stops.empty() || a.session.finish() == Finish::not_finite) return;
  if (a.session.finish() != Finish::stop) a.text += a.decoder->push(a.session.tokens().back());
  if (a.session.done()) a.text += a.decoder->finish();
  std::size_t end = std::string::npos;
  for (const std::string& stop : stops) end = std::min(end, a.text.find(stop));
  if (end == std::string::npos) return;
  a.stopped = true;
  a.text.resize(end);
}

void BatchJob::answer(Active& done, BatchOutput& output) {
  const Session& session = done.session;
  const auto parts = parts_.find(done.index);
  if (done.part >= 0 && parts == parts_.end()) return;  // another part was its document's end
  if (session.finish() == Finish::not_finite)
    return give_up(done.index, {"generation_failed", not_finite_message(session)}, output);
  const bool ended = session.finish() == Finish::stop;  // then the last token is the end token
  const auto ids = std::span(session.tokens()).subspan(session.prompt_size(), session.answer_size() - ended);
  Answer answer{done.stopped ? std::move(done.text) : model_.answer_text(ids),
                model_.name,
                ended || done.stopped ? "stop" : "length",
                session.prompt_size(),
                session.answer_size(),
                std::move(done.notes)};
  ++answered_;
  answered_tokens_ += answer.completion_tokens;
  if (answer.completion_tokens > 1)
    stats_.tpot.push_back(seconds_since(done.first_token) / static_cast<double>(answer.completion_tokens - 1));
  if (done.part >= 0) return part_done(done, answer, output);
  if (parts != parts_.end()) {
    answer.prompt_tokens += parts->second.prompt_tokens;
    answer.completion_tokens += parts->second.completion_tokens;
  }
  const BatchRequest& request = requests_[done.index];
  output.append(done.index, answer);
  ++stats_.documents;
  std::string outcome = fmt::format("{} prompt tokens, {} answer tokens, {}", with_commas(answer.prompt_tokens),
                                    answer.completion_tokens, answer.finish_reason);
  if (!answer.notes.is_null()) outcome += ", " + answer.notes.dump();
  progress_.document_done(request.custom_id, outcome,
                          {{"status", "answered"},
                           {"prompt_tokens", answer.prompt_tokens},
                           {"completion_tokens", answer.completion_tokens},
                           {"finish_reason", answer.finish_reason}});
  if (on_answer_) on_answer_(request, answer);
}

void BatchJob::record_failures(BatchOutput& output) {
  for (const auto& [index, failure] : failures_) fail(index, failure, output);
}

void BatchJob::fail(std::int64_t index, const Failure& failure, BatchOutput& output) {
  output.append(index, failure);
  ++stats_.documents, ++stats_.failed;
  progress_.document_done(requests_[index].custom_id, fmt::format("failed, {}: {}", failure.code, failure.message),
                          {{"status", "failed"}, {"code", failure.code}, {"message", failure.message}});
}

}  // namespace longhaul
