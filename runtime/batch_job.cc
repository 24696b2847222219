#include "runtime/batch_job.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "runtime/stop_signals.h"

namespace longhaul {

void check_context(std::int64_t prompt, std::int64_t max_tokens, std::int64_t context) {
  if (prompt + max_tokens > context)
    throw DocumentError(
        "context_length_exceeded",
        fmt::format("the prompt has {} tokens and the answer may have {}: together {}, but the context is "
                    "{} tokens",
                    prompt, max_tokens, prompt + max_tokens, context));
}

BatchJob::BatchJob(const ModelFiles& model, std::vector<BatchRequest> requests, JobOptions options, Progress& progress,
                   OnAnswer on_answer)
    : model_(model),
      requests_(std::move(requests)),
      texts_(requests_.size()),
      options_(std::move(options)),
      progress_(progress),
      on_answer_(std::move(on_answer)) {
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    stop_if_asked();
    BatchRequest& request = requests_[i];
    progress_.reading(static_cast<std::int64_t>(i) + 1);
    if (request.document.empty()) continue;
    try {
      if (request.failure) throw DocumentError(request.failure->code, request.failure->message);
      texts_[i] = read_document(request.document);
      request.content = content_key("text", texts_[i]);
    } catch (const DocumentError& e) {
      request.failure = Failure{e.code, e.what()};
      request.content = content_key(e.code, request.where);
    }
  }
}

std::vector<InputKey> BatchJob::keys() const {
  std::vector<InputKey> keys;
  for (const BatchRequest& request : requests_) keys.push_back({request.content, request.custom_id});
  return keys;
}

void BatchJob::prepare(const BatchOutput& output, const BatchJournal& journal) {
  for (std::int64_t i = 0; i < std::ssize(requests_); ++i) {
    stop_if_asked();
    if (output.has(i)) continue;
    progress_.tokenizing(i + 1);
    const Strikes& strikes = journal.of(requests_[i].content);
    try {
      if (strikes.count >= BatchJournal::kMostStrikes)
        throw DocumentError("process_ended",
                            fmt::format("the process ended {} times while it worked on this document ({}); it is not "
                                        "tried again without --retry-errors",
                                        strikes.count, strikes.causes));
      ready_.push_back(prepare_one(i));
      ready_.back().alone = strikes.count > 0;
      longest_ = std::max(longest_, ready_.back().rows());
    } catch (const DocumentError& e) {
      failures_.push_back({i, {e.code, e.what()}});
    } catch (const UserError& e) {
      if (e.code == Exit::bad_model) throw;
      failures_.push_back({i, {"invalid_request", e.what()}});  // in the template's words, or the tokenizer's
    }
    texts_[i] = {};
  }
  sort_ready();
}

BatchJob::Ready BatchJob::prepare_one(std::int64_t index) {
  BatchRequest& request = requests_[index];
  if (request.failure) throw DocumentError(request.failure->code, request.failure->message);
  std::vector<Message> messages = std::move(request.messages);
  if (!request.document.empty()) {
    std::string text = std::move(texts_[index]);
    if (!options_.instruction.empty()) text += "\n\n" + options_.instruction;
    messages = {{"user", std::move(text)}};
  }
  Ready ready{index, model_.prompt_ids(std::move(messages)), options_.sampling, options_.max_tokens};
  if (request.temperature) ready.sampling.temperature = static_cast<float>(*request.temperature);
  if (request.top_p) ready.sampling.top_p = static_cast<float>(*request.top_p);
  if (request.top_k) ready.sampling.top_k = static_cast<std::int32_t>(*request.top_k);
  if (request.seed) ready.sampling.seed = static_cast<std::uint64_t>(*request.seed);
  if (request.max_tokens) ready.max_tokens = *request.max_tokens;
  check_context(static_cast<std::int64_t>(ready.prompt.size()), ready.max_tokens, options_.context);
  return ready;
}

/// What may end the process comes last, so that the rest is done by then.
void BatchJob::sort_ready() {
  const auto suspects = std::ranges::stable_partition(ready_, [](const Ready& r) { return !r.alone; });
  if (options_.order == Order::input || ready_.begin() == suspects.begin()) return;
  std::stable_sort(ready_.begin(), suspects.begin(),
                   [](const Ready& a, const Ready& b) { return a.rows() > b.rows(); });
  std::rotate(ready_.begin(), suspects.begin() - 1, suspects.begin());  // the shortest: the one that runs alone
}

bool BatchJob::may_admit(const std::vector<Active>& active) const {
  if (ready_.empty()) return false;
  if (active.empty()) return true;
  const bool none_done = stats_.documents == stats_.failed;
  return !none_done && !ready_.front().alone && !active.front().alone;
}

void BatchJob::run(Engine& engine, BatchOutput& output, BatchJournal& journal) {
  std::vector<Active> active;
  std::vector<std::int64_t> free_slots;
  for (std::int64_t slot = engine.options().max_sessions; slot-- > 0;) free_slots.push_back(slot);
  auto tell_working = [&] {
    std::vector<std::string> keys;
    for (const Active& a : active) keys.push_back(requests_[a.index].content);
    journal.working(keys);
  };
  try {
    while (!ready_.empty() || !active.empty()) {
      bool changed = false;
      while (!free_slots.empty() && may_admit(active)) {
        const std::int64_t slot = free_slots.back();
        free_slots.pop_back();
        admit(engine, journal, slot, active);
        changed = true;
      }
      if (changed) tell_working();
      if (std::ranges::none_of(active, [](const Active& a) { return a.done(); })) decode(engine, active);
      const auto ended = std::erase_if(active, [&](Active& a) {
        if (!a.done()) return false;
        free_slots.push_back(a.session.slot());
        answer(a, output);
        return true;
      });
      if (ended > 0) tell_working();
    }
  } catch (const DeviceError& e) {
    journal.crashed(fmt::format("device failure: {}", e.what()));
    throw;
  }
}

void BatchJob::admit(Engine& engine, BatchJournal& journal, std::int64_t slot, std::vector<Active>& active) {
  stop_if_asked();
  Ready next = std::move(ready_.front());
  ready_.pop_front();
  const std::string name = name_of(next.index);
  journal.working({requests_[next.index].content});
  Session session(slot, std::move(next.prompt), next.sampling, next.max_tokens, model_.eos());
  const auto start = Progress::Clock::now();
  const std::int64_t h2d = engine.device().counters().h2d_bytes, tokens = session.prompt_size();
  progress_.prefill(name, tokens, 0);
  engine.prefill(session, [&](const PrefillProgress& p) {
    progress_.prefill(name, tokens, p.done / p.total);
    stop_if_asked();
  });
  const double seconds = seconds_since(start);
  stats_.prefill_seconds += seconds;
  stats_.ttft.push_back(seconds);
  stats_.prefill_h2d_bytes += engine.device().counters().h2d_bytes - h2d;
  stats_.prompt_tokens += tokens;
  active.push_back({.index = next.index,
                    .session = std::move(session),
                    .alone = next.alone,
                    .first_token = Progress::Clock::now(),
                    .decoder = std::make_unique<StreamDecoder>(model_.tokenizer)});
  look_for_stop(active.back());
}

void BatchJob::decode(Engine& engine, std::vector<Active>& active) {
  stop_if_asked();
  std::vector<Session*> sessions;
  for (Active& a : active) sessions.push_back(&a.session);
  const auto start = Progress::Clock::now();
  engine.step(sessions);
  stats_.decode_seconds += seconds_since(start);
  stats_.decoded_tokens += std::ssize(sessions);
  for (Active& a : active) look_for_stop(a);
  progress_.decode(std::ssize(sessions), stats_.decoded_tokens, stats_.decode_seconds);
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
  if (session.finish() == Finish::not_finite)
    return fail(done.index, {"generation_failed", not_finite_message(session)}, output);
  const bool ended = session.finish() == Finish::stop;  // then the last token is the end token
  const auto ids = std::span(session.tokens()).subspan(session.prompt_size(), session.answer_size() - ended);
  Answer answer{done.stopped ? std::move(done.text) : model_.answer_text(ids), model_.name,
                ended || done.stopped ? "stop" : "length", session.prompt_size(), session.answer_size()};
  const BatchRequest& request = requests_[done.index];
  output.append(done.index, answer);
  ++stats_.documents;
  if (answer.completion_tokens > 1)
    stats_.tpot.push_back(seconds_since(done.first_token) / static_cast<double>(answer.completion_tokens - 1));
  progress_.document_done(request.custom_id,
                          fmt::format("{} prompt tokens, {} answer tokens, {}", with_commas(answer.prompt_tokens),
                                      answer.completion_tokens, answer.finish_reason));
  if (on_answer_) on_answer_(request, answer);
}

void BatchJob::record_failures(BatchOutput& output) {
  for (const auto& [index, failure] : failures_) fail(index, failure, output);
}

void BatchJob::fail(std::int64_t index, const Failure& failure, BatchOutput& output) {
  output.append(index, failure);
  ++stats_.documents, ++stats_.failed;
  progress_.document_done(name_of(index), fmt::format("failed, {}: {}", failure.code, failure.message));
}

}  // namespace longhaul
