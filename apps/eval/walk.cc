#include "apps/eval/walk.h"

#include <algorithm>
#include <cmath>

#include "apps/eval/cell.h"
#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

/// -log of the softmax's share of one token.
double negative_log_likelihood(std::span<const float> logits, std::int32_t token) {
  const float most = *std::ranges::max_element(logits);
  // Four sums side by side, so that the compiler may keep them in registers.
  float sums[4] = {0, 0, 0, 0};
  for (std::size_t i = 0; i < logits.size(); ++i) sums[i % 4] += std::exp(logits[i] - most);
  const double sum = static_cast<double>(sums[0]) + sums[1] + sums[2] + sums[3];
  return std::log(sum) + most - logits[static_cast<std::size_t>(token)];
}

}  // namespace

Walk::Walk(Engine& engine, const ModelFiles& model, const Document& document, Session& session, StepStats* stats)
    : engine_(&engine), model_(&model), document_(&document), session_(&session), stats_(stats) {
  if (!done()) begin_question();
}

void Walk::begin_question() {
  engine_->rewind(*session_, session_->prompt_size(), question().ask[0]);
  fed_ = 0;
  part_ = 0;
  item_ = {.name = question().parts.empty() ? question().name : question().parts[0].name};
  // A part is right until one of its tokens is not.
  item_.sum = question().judge == Judge::exact ? 1 : 0;
  if (question().judge == Judge::likelihood) item_.weight = 0;
  text_.clear();
  if (stats_ != nullptr) stats_->restart();
}

void Walk::end_question() {
  if (++question_ < document_->questions.size()) begin_question();
}

bool Walk::wants_logits() const {
  const Judge judge = question().judge;
  return (judge == Judge::likelihood || judge == Judge::choice) &&
         fed_ + 1 >= static_cast<std::int64_t>(question().ask.size());
}

void Walk::stepped(std::span<const float> logits) {
  if (session_->finish() == Finish::not_finite) throw UserError(Exit::bad_model, "{}", not_finite_message(*session_));
  ++steps_;
  attended_ += attended_share(engine_->options().policy, engine_->config().layers, session_->rows());
  const auto asked = static_cast<std::int64_t>(question().ask.size());
  const std::int32_t likeliest = session_->tokens().back();
  if (++fed_ < asked) return session_->force(question().ask[static_cast<std::size_t>(fed_)]);
  switch (question().judge) {
    case Judge::exact:
    case Judge::likelihood:
      return judge_forced(fed_ - asked, likeliest, logits);
    case Judge::generated:
      return judge_generated(likeliest);
    case Judge::choice:
      break;
  }
  const std::vector<std::int32_t>& candidates = question().answer;
  const auto best = std::ranges::max_element(
      candidates, {}, [&](std::int32_t token) { return logits[static_cast<std::size_t>(token)]; });
  item_.sum = best - candidates.begin() == question().right;
  items_.push_back(std::move(item_));
  end_question();
}

void Walk::judge_forced(std::int64_t at, std::int32_t likeliest, std::span<const float> logits) {
  const Question& q = question();
  const std::int32_t wanted = q.answer[static_cast<std::size_t>(at)];
  const Part& part = q.parts[part_];
  if (q.judge == Judge::likelihood) {
    item_.sum += negative_log_likelihood(logits, wanted);
    ++item_.weight;
  } else if (likeliest != wanted) {
    item_.sum = 0;
  }
  const bool last = part_ + 1 == q.parts.size();
  const bool decided = q.judge == Judge::exact && item_.sum == 0 && last;  // the rest cannot make it right
  if (at + 1 < part.end && !decided) return session_->force(wanted);
  if (part.scored) items_.push_back(std::move(item_));
  if (last) return end_question();
  session_->force(wanted);
  ++part_;
  item_ = {.name = q.parts[part_].name, .sum = q.judge == Judge::exact ? 1.0 : 0.0};
  if (q.judge == Judge::likelihood) item_.weight = 0;
}

void Walk::judge_generated(std::int32_t token) {
  const Question& q = question();
  auto ends = [token](const std::vector<std::int32_t>& list) { return std::ranges::find(list, token) != list.end(); };
  // A stop token of the task's own ends an answer that has begun (LongBench asks for at least one token).
  bool over = ends(model_->eos()) || (ends(q.stop) && !text_.empty());
  if (!over) {
    text_.push_back(token);
    over = static_cast<std::int64_t>(text_.size()) == q.max_tokens ||
           (q.complete && q.complete(model_->answer_text(text_)));
  }
  if (!over) return;
  item_.text = model_->answer_text(text_);
  item_.sum = q.score(item_.text);
  items_.push_back(std::move(item_));
  end_question();
}

void run_walks(Engine& engine, std::span<Walk> walks, const std::function<void(std::size_t)>& finished,
               const std::function<void(std::int64_t)>& stepped) {
  const auto vocab = static_cast<std::size_t>(engine.config().vocab);
  std::vector<std::size_t> active;
  std::vector<Session*> sessions;
  std::vector<float> logits;
  std::size_t filled = 0;
  bool tapped = false;
  for (std::size_t i = 0; i < walks.size(); ++i) {
    if (walks[i].done()) finished(i);
    else active.push_back(i);
  }
  if (engine.options().probes.steps)
    engine.set_step_tap([&](const StepProbe& probe, std::span<Session* const>) {
      for (std::size_t n = 0; n < active.size(); ++n)
        if (const Walk& walk = walks[active[n]]; walk.stats() != nullptr)
          walk.stats()->add(probe, static_cast<std::int64_t>(n), walk.session().rows());
    });
  while (!active.empty()) {
    sessions.clear();
    bool wanted = false;
    for (std::size_t i : active) {
      sessions.push_back(&walks[i].session());
      wanted = wanted || walks[i].wants_logits();
    }
    if (wanted != tapped) {
      if (wanted)
        engine.set_logits_tap([&](std::int64_t rows, const float* values) {
          const std::size_t count = static_cast<std::size_t>(rows) * vocab;
          std::copy_n(values, count, logits.begin() + static_cast<std::ptrdiff_t>(filled));
          filled += count;
        });
      else engine.set_logits_tap({});
      tapped = wanted;
    }
    logits.resize(sessions.size() * vocab);
    filled = 0;
    engine.step(sessions);
    for (std::size_t n = 0; n < active.size(); ++n)
      walks[active[n]].stepped(wanted ? std::span<const float>(logits).subspan(n * vocab, vocab)
                                      : std::span<const float>());
    stepped(static_cast<std::int64_t>(active.size()));
    for (std::size_t i : active)
      if (walks[i].done()) finished(i);
    std::erase_if(active, [&](std::size_t i) { return walks[i].done(); });
  }
  if (tapped) engine.set_logits_tap({});
  engine.set_step_tap({});
}

}  // namespace longhaul::eval
