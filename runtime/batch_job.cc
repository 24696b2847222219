#include "runtime/batch_job.h"

#include <algorithm>

#include "kernels/base/error.h"

namespace longhaul {

void check_context(std::int64_t prompt, std::int64_t max_tokens, std::int64_t context) {
  if (prompt + max_tokens > context)
    throw DocumentError(
        "context_length_exceeded",
        fmt::format("the prompt has {} tokens and the answer may have {}: together {}, but the context is "
                    "{} tokens",
                    prompt, max_tokens, prompt + max_tokens, context));
}

BatchJob::BatchJob(const ModelFiles& model, std::vector<BatchRequest> requests, JobOptions options, BatchOutput& output,
                   Progress& progress, OnAnswer on_answer)
    : model_(model),
      requests_(std::move(requests)),
      options_(std::move(options)),
      output_(output),
      progress_(progress),
      on_answer_(std::move(on_answer)) {
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(requests_.size()); ++i) {
    progress_.tokenizing(i + 1);
    try {
      ready_.push_back(prepare(i));
      longest_ = std::max<std::int64_t>(longest_, ready_.back().prompt.size() + ready_.back().max_tokens);
    } catch (const DocumentError& e) {
      failures_.push_back({i, {e.code, e.what()}});
    } catch (const UserError& e) {
      if (e.code == Exit::bad_model) throw;
      failures_.push_back({i, {"invalid_request", e.what()}});  // in the template's words, or the tokenizer's
    }
  }
}

BatchJob::Ready BatchJob::prepare(std::int64_t index) {
  BatchRequest& request = requests_[index];
  if (request.failure) throw DocumentError(request.failure->code, request.failure->message);
  std::vector<Message> messages = std::move(request.messages);
  if (!request.document.empty()) {
    std::string text = read_document(request.document);
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

void BatchJob::run(Engine& engine) {
  std::vector<Active> active;
  std::vector<std::int64_t> free_slots;
  for (std::int64_t slot = engine.options().max_sessions; slot-- > 0;) free_slots.push_back(slot);
  auto next = ready_.begin();
  while (next != ready_.end() || !active.empty()) {
    while (next != ready_.end() && !free_slots.empty()) {
      std::int64_t slot = free_slots.back();
      free_slots.pop_back();
      admit(engine, std::move(*next++), slot, active);
    }
    if (!active.empty() && std::none_of(active.begin(), active.end(), [](const Active& a) { return a.session.done(); }))
      decode(engine, active);
    std::erase_if(active, [&](const Active& a) {
      if (!a.session.done()) return false;
      answer(a);
      free_slots.push_back(a.session.slot());
      return true;
    });
  }
}

void BatchJob::admit(Engine& engine, Ready next, std::int64_t slot, std::vector<Active>& active) {
  const std::string& name = requests_[next.index].custom_id;
  Session session(slot, std::move(next.prompt), next.sampling, next.max_tokens, model_.eos());
  auto start = Progress::Clock::now();
  std::int64_t h2d = engine.device().counters().h2d_bytes, tokens = session.prompt_size();
  progress_.prefill(name, tokens, 0);
  engine.prefill(session, [&](const PrefillProgress& p) { progress_.prefill(name, tokens, p.done / p.total); });
  stats_.prefill_seconds += seconds_since(start);
  stats_.prefill_h2d_bytes += engine.device().counters().h2d_bytes - h2d;
  stats_.prompt_tokens += tokens;
  active.push_back({next.index, std::move(session)});
}

void BatchJob::decode(Engine& engine, std::vector<Active>& active) {
  std::vector<Session*> sessions;
  for (Active& a : active) sessions.push_back(&a.session);
  auto start = Progress::Clock::now();
  engine.step(sessions);
  stats_.decode_seconds += seconds_since(start);
  stats_.decoded_tokens += static_cast<std::int64_t>(sessions.size());
  progress_.decode(static_cast<std::int64_t>(sessions.size()), stats_.decoded_tokens, stats_.decode_seconds);
}

void BatchJob::answer(const Active& done) {
  const Session& session = done.session;
  if (session.finish() == Finish::not_finite)
    return fail(done.index, {"generation_failed", not_finite_message(session)});
  bool stopped = session.finish() == Finish::stop;  // then the last token is the end token
  auto ids = std::span(session.tokens()).subspan(session.prompt_size(), session.answer_size() - stopped);
  Answer answer{model_.answer_text(ids), model_.name, stopped ? "stop" : "length", session.prompt_size(),
                session.answer_size()};
  const BatchRequest& request = requests_[done.index];
  output_.append(done.index, answer_record(done.index, request.custom_id, answer));
  ++stats_.documents;
  progress_.document_done(request.custom_id,
                          fmt::format("{} prompt tokens, {} answer tokens, {}", with_commas(answer.prompt_tokens),
                                      answer.completion_tokens, answer.finish_reason));
  if (on_answer_) on_answer_(request, answer);
}

void BatchJob::record_failures() {
  for (const auto& [index, failure] : failures_) fail(index, failure);
}

void BatchJob::fail(std::int64_t index, const Failure& failure) {
  const std::string& name = requests_[index].custom_id;
  output_.append(index, failure_record(index, name, failure));
  ++stats_.documents, ++stats_.failed;
  progress_.document_done(name, fmt::format("failed, {}: {}", failure.code, failure.message));
}

}  // namespace longhaul
