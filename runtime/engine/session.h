// One sequence being answered: its tokens, how they are sampled, when it ends. Owned by the caller; the engine holds
// its KV rows in `slot`.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace longhaul {

/// not_finite: the model gave logits that no token can be sampled from; the answer ends before that token.
enum class Finish { none, stop, length, not_finite };

class Session {
 public:
  /// `sampling`'s step, slot and newest token are ignored; max_tokens >= 1 counts answer tokens, an end token included.
  Session(std::int64_t slot, std::vector<std::int32_t> prompt, const SampleParams& sampling, std::int64_t max_tokens,
          std::vector<std::int32_t> eos);

  std::int64_t slot() const { return slot_; }
  std::int64_t prompt_size() const { return prompt_; }
  /// Of prompt and answer together.
  std::int64_t most_tokens() const { return prompt_ + max_tokens_; }
  /// Prompt and answer, the end token included.
  const std::vector<std::int32_t>& tokens() const { return tokens_; }
  std::int64_t answer_size() const { return static_cast<std::int64_t>(tokens_.size()) - prompt_; }
  Finish finish() const { return finish_; }
  bool done() const { return finish_ != Finish::none; }

  /// Rows in the KV cache: all tokens but the newest answer token.
  std::int64_t rows() const { return rows_; }
  SampleParams next_sampling() const;
  bool penalised() const { return sampling_.repetition_penalty != 1; }
  /// The engine gives the token it has sampled after `rows` rows; -1: there was none to sample.
  void accept(std::int32_t token, std::int64_t rows);
  /// Teacher forcing: the newest answer token becomes `token`, and the session goes on whatever it is.
  void force(std::int32_t token);
  /// The session as it was with `rows` rows, `next` being the token that follows them. Engine::rewind calls it.
  void rewind(std::int64_t rows, std::int32_t next);

 private:
  std::int64_t slot_, prompt_, rows_ = 0, max_tokens_;
  std::vector<std::int32_t> tokens_, eos_;
  SampleParams sampling_;
  Finish finish_ = Finish::none;
};

/// What to tell the user about a session that ended as Finish::not_finite.
std::string not_finite_message(const Session& session);

}  // namespace longhaul
