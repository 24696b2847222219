// A loaded model on a device with its KV cache: prefill one session, decode a span of sessions together.
// One host thread drives it; it owns its streams and all memory of the plan.
#pragma once
#include <functional>
#include <memory>
#include <span>

#include "kernels/device.h"
#include "runtime/plan.h"
#include "runtime/safetensors.h"
#include "runtime/session.h"

namespace longhaul {

/// In the same unit, proportional to arithmetic, so that done / total predicts time.
struct PrefillProgress {
  double done, total;
};
using PrefillReport = std::function<void(const PrefillProgress&)>;

/// Logits of `rows` consecutive positions of one forward call, [rows, vocab].
using LogitsTap = std::function<void(std::int64_t rows, const float* logits)>;

class Engine {
 public:
  /// Allocates exactly plan_memory(config, options) and loads the weights. Throws OutOfMemory, UserError{bad_model}.
  Engine(Device& device, const ModelConfig& config, const Safetensors& weights, const EngineOptions& options);
  Engine(Engine&&) = delete;
  ~Engine();

  /// Runs the session's prompt through all layers and samples the first answer token.
  void prefill(Session& session, const PrefillReport& report = {});
  /// One decode step: one more token for each session (none may be done). One host wait.
  void step(std::span<Session* const> sessions);
  /// While set, every forward call also brings its logits to the host (all positions of a prefill): for tests and
  /// scoring.
  void set_logits_tap(LogitsTap tap);

  const EngineOptions& options() const;
  const MemoryPlan& plan() const;
  const ModelConfig& config() const;
  Device& device() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul
