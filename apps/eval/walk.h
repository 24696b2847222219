// One document's way through an engine: each question in turn from the document's end, token by token, judged as it
// goes. Walks of several documents take their steps together.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "apps/eval/document.h"
#include "apps/eval/step_stats.h"
#include "runtime/checkpoint/model_files.h"
#include "runtime/engine/engine.h"

namespace longhaul::eval {

class Walk {
 public:
  /// `session` has been prefilled or adopted in `engine`. All outlive the walk. `stats` may be null.
  Walk(Engine& engine, const ModelFiles& model, const Document& document, Session& session, StepStats* stats);
  Walk(Walk&&) noexcept = default;

  bool done() const { return question_ == document_->questions.size(); }
  Session& session() const { return *session_; }
  StepStats* stats() const { return stats_; }
  /// Whether the coming step must bring its logits.
  bool wants_logits() const;
  /// After a step: `logits` of its row where it wanted them.
  void stepped(std::span<const float> logits);

  std::vector<Item> take_items() { return std::move(items_); }
  /// Mean over all steps of the share of rows that a token attends by the policy's budget.
  double attended() const { return steps_ > 0 ? attended_ / static_cast<double>(steps_) : 1; }

 private:
  const Question& question() const { return document_->questions[question_]; }
  void begin_question();
  void end_question();
  void judge_forced(std::int64_t at, std::int32_t likeliest, std::span<const float> logits);
  void judge_generated(std::int32_t token);

  Engine* engine_;
  const ModelFiles* model_;
  const Document* document_;
  Session* session_;
  StepStats* stats_;
  std::size_t question_ = 0, part_ = 0;
  std::int64_t fed_ = 0;  // tokens of the question and answer that steps have taken in
  Item item_;             // of the part that is being judged
  std::vector<std::int32_t> text_;
  std::vector<Item> items_;
  std::int64_t steps_ = 0;
  double attended_ = 0;
};

/// Takes all walks to their ends, as many at a time as the engine has sessions for (walks' sessions are in slots of
/// their own). `finished` is called as each ends, `stepped` after every step with the number of walks that took it.
void run_walks(Engine& engine, std::span<Walk> walks, const std::function<void(std::size_t)>& finished,
               const std::function<void(std::int64_t)>& stepped);

}  // namespace longhaul::eval
