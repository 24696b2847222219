// How long a job may still take, by how fast it has been: prefills by their arithmetic, which grows with the square of
// a prompt, answers by their tokens.
#pragma once
#include <cstdint>
#include <optional>

namespace longhaul {

struct Pace {
  double work = 0, prefill_seconds = 0;  // of prefills so far, as prompt_work counts it
  std::int64_t tokens = 0;               // decoded so far
  double decode_seconds = 0;

  /// For so much work and so many tokens more; none before anything is known. Tokens count once one was decoded.
  std::optional<double> seconds_for(double more_work, double more_tokens) const {
    if (work <= 0) return {};
    double seconds = more_work * prefill_seconds / work;
    if (tokens > 0) seconds += more_tokens * decode_seconds / static_cast<double>(tokens);
    return seconds;
  }
};

}  // namespace longhaul
