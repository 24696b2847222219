#include "runtime/engine/session.h"

#include <algorithm>

#include "kernels/base/error.h"

namespace longhaul {

Session::Session(std::int64_t slot, std::vector<std::int32_t> prompt, const SampleParams& sampling,
                 std::int64_t max_tokens, std::vector<std::int32_t> eos)
    : slot_(slot),
      prompt_(static_cast<std::int64_t>(prompt.size())),
      max_tokens_(max_tokens),
      tokens_(std::move(prompt)),
      eos_(std::move(eos)),
      sampling_(sampling) {
  check(prompt_ >= 1 && max_tokens >= 1, "a session has a prompt and answers at least one token");
}

SampleParams Session::next_sampling() const {
  SampleParams next = sampling_;
  next.step = static_cast<std::uint64_t>(answer_size());
  next.slot = static_cast<std::int32_t>(slot_);
  next.newest = tokens_.back();
  return next;
}

void Session::accept(std::int32_t token, std::int64_t rows) {
  rows_ = rows;
  if (token < 0) {
    finish_ = Finish::not_finite;
    return;
  }
  tokens_.push_back(token);
  if (std::ranges::find(eos_, token) != eos_.end()) finish_ = Finish::stop;
  else if (answer_size() >= max_tokens_) finish_ = Finish::length;
}

std::string not_finite_message(const Session& session) {
  return fmt::format(
      "the model gave no finite logits after {} tokens: its weights are damaged, or --activations f32 is needed",
      session.rows());
}

void Session::force(std::int32_t token) {
  check(answer_size() >= 1, "there is an answer token to replace");
  tokens_.back() = token;
  if (finish_ == Finish::stop) finish_ = Finish::none;
}

void Session::rewind(std::int64_t rows, std::int32_t next) {
  check(rows >= prompt_ && rows <= rows_, "a session goes back to a row at or after its prompt's end");
  tokens_.resize(static_cast<std::size_t>(rows));
  tokens_.push_back(next);
  rows_ = rows;
  finish_ = Finish::none;
}

}  // namespace longhaul
