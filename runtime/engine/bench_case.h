// One measurement of longhaul bench: a prefill ("pp512") or decode steps behind a filled context ("tg128 @ d262144"),
// repeated, and what is told of it.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"

namespace longhaul {

struct BenchCase {
  std::int64_t prompt = 0, generated = 0, depth = 0;  // a prefill of `prompt` tokens, or else `generated` steps

  std::string label() const;
  /// That each session of the engine must take.
  std::int64_t rows() const;
};

/// Of the timed part of one repetition where nothing else is said; absent: it does not apply, or the device does not
/// measure it.
struct BenchResult {
  std::vector<double> tokens_per_second;         // of all sessions, by repetition
  std::optional<double> ttft_ms;                 // a session's prefill up to its first sampled token, mean
  std::optional<double> tpot_ms;                 // seconds of steps / steps, mean: what a session waits for a token
  std::optional<double> itl_p50_ms, itl_p99_ms;  // of all steps of all repetitions
  std::int64_t h2d_bytes = 0;                    // over the link to the device
  double h2d_gibps = 0;                          // the same by the wall clock
  std::optional<double> stall_ms;                // the compute stream stood waiting for copies
  std::optional<double> overlap_pct;             // of the time the link was busy, what compute did not wait for
  std::optional<double> hit_rate;                // of the selected rows, those that did not cross the link
  std::int64_t kv_device_bytes = 0, kv_host_bytes = 0;  // of the plan
  std::int64_t peak_device_bytes = 0;                   // of the device's budget
  std::int64_t peak_host_bytes = 0;                     // the process's largest resident set so far
  double pin_ms = 0;                                    // touching and pinning the engine's host memory

  double mean() const;
  double deviation() const;  // of the sample; 0 for one repetition
};

BenchResult run_case(Engine& engine, const BenchCase& what, int repetitions);

}  // namespace longhaul
