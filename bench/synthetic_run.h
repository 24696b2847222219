// A model of a geometry with random weights, sessions filled with random rows, and the time of its steps.
#pragma once
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/engine/replay.h"
#include "runtime/engine/timed_sessions.h"
#include "runtime/model/geometry.h"
#include "runtime/plan/step_bytes.h"

namespace longhaul::bench {

constexpr std::int64_t kAnswer = 256;  // tokens that a session may answer, its first from the prefill

struct SyntheticSetting {
  Geometry geometry;
  std::string device = "cuda:0";
  std::string policy = "offload";
  std::vector<std::string> sets;  // KEY=VALUE of the policy
  std::int64_t context = 256 << 10, batch = 1, prefill_chunk = 4096;
  std::optional<std::int64_t> gpu_memory, host_memory;  // bytes; none: what is free
  std::shared_ptr<const Replay> replay;                 // null: what random queries select
  Placement wanted = {};
  Probes probes = {};
};

/// What a figure's name says of a setting, so that those of different budgets stand beside each other:
/// "llama-3.1-8b_offload_262144_1_12.00GiB".
std::string name_of(const SyntheticSetting& setting);

struct StepTimes {
  double seconds;                     // median of the steps
  double rows, hits, staged, missed;  // of a step, mean: listed rows of layers whose rows move, and where they were
  double h2d_bytes;                   // of a step, mean: all that came over the link to the device
};

struct StepRun {
  StepTimes times;
  StepBytes bytes;
  std::int64_t row_bytes;  // K and V of one head
  std::string setting;     // all that the time depends on, where the listed rows were, and the time
};

class SyntheticRun {
 public:
  /// Allocates and makes the weights. Throws as Engine does.
  explicit SyntheticRun(const SyntheticSetting& setting);

  /// Fills every session to `context` rows.
  void fill() { sessions_->fill(); }
  /// Steps of all sessions, `timed` of them after `warm`; fewer where they stream all rows.
  StepRun step(int warm, int timed);
  /// A short prefill: libraries choose their kernels at the first one.
  void warm_prefill() {
    TimedSessions(*engine_, std::min(setting_.context, engine_->options().prefill_chunk), 1).prefill();
  }
  /// A real prefill of `context` random tokens into each session; seconds.
  double prefill() { return sessions_->prefill().total(); }
  std::int64_t layers_not_stored() const { return engine_->layers_not_stored(sessions_->session(0)); }

  Engine& engine() { return *engine_; }
  Device& device() { return *device_; }
  StepBytes bytes() const;
  /// "synthetic llama-3.1-8b, offload, 256K tokens x 1, k 16384, ...": all that the time depends on.
  std::string describe() const;

 private:
  SyntheticSetting setting_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<TimedSessions> sessions_;
};

}  // namespace longhaul::bench
