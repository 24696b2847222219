// Sessions of random tokens on an engine, as many as it takes together, and the time and traffic of what it does with
// them. For measurements of speed.
#pragma once
#include <vector>

#include "runtime/engine/engine.h"

namespace longhaul {

/// A prompt that means nothing.
std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab, std::int64_t seed);

struct Timed {
  std::vector<double> seconds;  // of each step, or of each session's prefill
  DeviceCounters before, after;
  RowCounts rows;  // of these steps alone
  double total() const;
  std::int64_t h2d_bytes() const { return after.h2d_bytes - before.h2d_bytes; }
};

class TimedSessions {
 public:
  /// `rows` random tokens each; they answer at most `answer` tokens, whatever those are.
  TimedSessions(Engine& engine, std::int64_t rows, std::int64_t answer);

  /// Random rows in place of computed ones, for all tokens.
  void fill();
  /// One session after the other. Throws UserError{bad_model} for a model that gives no finite logits.
  Timed prefill();
  /// Steps of all sessions together, `warm` of them before the timed ones. Throws likewise.
  Timed step(int warm, int timed);
  const Session& session(std::size_t i) const { return sessions_[i]; }

 private:
  void check_finite() const;

  Engine& engine_;
  std::vector<Session> sessions_;
};

}  // namespace longhaul
