// How a batch's requests become prompts: what stands around a document, and what is done with one that is too long.
#include <algorithm>

#include "kernels/base/error.h"
#include "runtime/batch/job.h"
#include "runtime/engine/prefill_work.h"

namespace longhaul {

void check_context(std::int64_t prompt, std::int64_t max_tokens, std::int64_t context) {
  if (prompt + max_tokens > context)
    throw DocumentError(
        "context_length_exceeded",
        fmt::format("the prompt has {} tokens and the answer may have {}: together {}, but the context is "
                    "{} tokens",
                    prompt, max_tokens, prompt + max_tokens, context));
}

PromptFrame instruction_frame(const std::string& instruction) {
  return {"", instruction.empty() ? "" : "\n\n" + instruction};
}

PromptFrame template_frame(const std::string& text, const std::string& where) {
  constexpr std::string_view kPlace = "{document}";
  const std::size_t at = text.find(kPlace);
  if (at == std::string::npos || text.find(kPlace, at + 1) != std::string::npos)
    throw UserError(Exit::usage, "{}: must have {} in it once, where the document goes", where, kPlace);
  return {text.substr(0, at), text.substr(at + kPlace.size())};
}

void BatchJob::prepare_one(std::int64_t index, bool alone) {
  const BatchRequest& request = requests_[index];
  if (request.failure) throw DocumentError(request.failure->code, request.failure->message);
  Ready ready = ready_of(index, model_.prompt_ids(messages_of(index, long_text(index))));
  ready.alone = alone;
  if (ready.rows() > options_.context && options_.overflow != Overflow::error) return fit(index, std::move(ready));
  check_context(std::ssize(ready.prompt), ready.max_tokens, options_.context);
  push_ready(std::move(ready));
}

void BatchJob::push_ready(Ready ready, bool next) {
  work_left_ += prompt_work(model_.config, std::ssize(ready.prompt));
  ready_.insert(next ? ready_.begin() : ready_.end(), std::move(ready));
}

BatchJob::Ready BatchJob::ready_of(std::int64_t index, std::vector<std::int32_t> prompt) const {
  const BatchRequest& request = requests_[index];
  Ready ready{index, std::move(prompt), options_.sampling, request.max_tokens.value_or(options_.max_tokens)};
  if (request.temperature) ready.sampling.temperature = static_cast<float>(*request.temperature);
  if (request.top_p) ready.sampling.top_p = static_cast<float>(*request.top_p);
  if (request.top_k) ready.sampling.top_k = static_cast<std::int32_t>(*request.top_k);
  if (request.repetition_penalty) ready.sampling.repetition_penalty = static_cast<float>(*request.repetition_penalty);
  if (request.seed) ready.sampling.seed = static_cast<std::uint64_t>(*request.seed);
  return ready;
}

/// A document, or the longest message of a JSONL request.
const std::string& BatchJob::long_text(std::int64_t index) const {
  const BatchRequest& request = requests_[index];
  if (request.messages.empty()) return request.text;
  return std::ranges::max_element(request.messages, {}, [](const Message& m) { return m.content.size(); })->content;
}

/// What is asked, with `text` in the place of the long text.
std::vector<Message> BatchJob::messages_of(std::int64_t index, const std::string& text) const {
  const BatchRequest& request = requests_[index];
  if (request.messages.empty()) return {{"user", options_.frame.around(text)}};
  std::vector<Message> messages = request.messages;
  std::ranges::max_element(messages, {}, [](const Message& m) { return m.content.size(); })->content = text;
  return messages;
}

/// Cuts or splits what is too long. Throws DocumentError where that cannot be done.
void BatchJob::fit(std::int64_t index, Ready ready) {
  const std::int64_t original = std::ssize(ready.prompt), limit = options_.context - ready.max_tokens;
  if (options_.overflow == Overflow::map_reduce) {
    if (!requests_[index].messages.empty())
      throw DocumentError(
          "context_length_exceeded",
          fmt::format("the prompt has {} tokens and the context is {}; map-reduce splits documents that "
                      "go with an --instruction, not JSONL requests",
                      original, options_.context));
    Parts& parts = parts_[index];
    parts.original = original;
    return split(index, long_text(index), ready.alone);
  }
  auto tokens = [&](const std::string& text) { return std::ssize(model_.prompt_ids(messages_of(index, text))); };
  const std::string kept = cut_to_fit(long_text(index), options_.overflow, limit, tokens);
  if (kept.empty()) check_context(original, ready.max_tokens, options_.context);
  ready.prompt = model_.prompt_ids(messages_of(index, kept));
  ready.notes = {{"truncated",
                  {{"how", name_of(options_.overflow)},
                   {"original_tokens", original},
                   {"kept_tokens", std::ssize(ready.prompt)}}}};
  push_ready(std::move(ready));
}

/// The next round of a document that is answered in parts: its parts, or one prompt if that holds all. They come next.
void BatchJob::split(std::int64_t index, const std::string& text, bool alone) {
  Parts& parts = parts_.at(index);
  const std::int64_t most = requests_[index].max_tokens.value_or(options_.max_tokens);
  auto tokens = [&](const std::string& part) {
    return std::ssize(model_.prompt_ids({{"user", options_.frame.around(part)}}));
  };
  const std::vector<std::string> pieces = split_to_fit(text, options_.context - most, tokens);
  if (pieces.empty() || (parts.rounds > 0 && text.size() > parts.bytes / 4 * 3))
    throw DocumentError("context_length_exceeded",
                        fmt::format("the prompt has {} tokens and the context is {}: its parts' answers do not get "
                                    "short enough; lower --max-tokens",
                                    parts.original, options_.context));
  parts.bytes = text.size();
  if (++parts.rounds == 1) parts.first = std::ssize(pieces);
  parts.answers.assign(pieces.size(), "");
  parts.missing = std::ssize(pieces);
  for (std::int64_t i = std::ssize(pieces); i-- > 0;) {
    Ready ready = ready_of(index, model_.prompt_ids({{"user", options_.frame.around(pieces[i])}}));
    ready.alone = alone;
    if (pieces.size() > 1) ready.part = i;
    else
      ready.notes = {
          {"map_reduce", {{"original_tokens", parts.original}, {"parts", parts.first}, {"rounds", parts.rounds}}}};
    push_ready(std::move(ready), /*next=*/true);
  }
}

void BatchJob::part_done(const Active& done, const Answer& answer, BatchOutput& output) {
  Parts& parts = parts_.at(done.index);
  parts.prompt_tokens += answer.prompt_tokens;
  parts.completion_tokens += answer.completion_tokens;
  parts.answers[done.part] = answer.text;
  if (--parts.missing > 0) return;
  std::string together;
  for (const std::string& text : parts.answers) together += (together.empty() ? "" : "\n\n") + text;
  try {
    split(done.index, together, done.alone);
  } catch (const DocumentError& e) {
    give_up(done.index, {e.code, e.what()}, output);
  } catch (const UserError& e) {
    if (e.code == Exit::bad_model) throw;
    give_up(done.index, {"invalid_request", e.what()}, output);
  }
}

void BatchJob::give_up(std::int64_t index, const Failure& failure, BatchOutput& output) {
  parts_.erase(index);
  std::erase_if(ready_, [&](const Ready& ready) { return ready.index == index; });
  fail(index, failure, output);
}

std::string BatchJob::title_of(const Ready& ready) const {
  const std::string& name = requests_[ready.index].custom_id;
  if (ready.part < 0) return name;
  return fmt::format("{} (part {} of {})", name, ready.part + 1, parts_.at(ready.index).answers.size());
}

}  // namespace longhaul
