// Brings to the host what each decode step selected and how good that was: measurements only. The copies go on the
// compute stream before the step's tokens, so that they are there when those are.
#pragma once
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/engine/engine_memory.h"

namespace longhaul {

class StepRecorder {
 public:
  StepRecorder(const ModelConfig& config, const EngineOptions& options, const EngineMemory& memory, Stream& compute)
      : config_(config), options_(options), memory_(memory), compute_(compute) {}

  void before_layer(std::int64_t layer, std::int64_t sessions);
  void after_layer(std::int64_t layer, std::int64_t sessions);
  void end(std::int64_t sessions);
  /// After the host has waited for the step.
  StepProbe view();

 private:
  template <class T>
  void bring(T* to, const T* from, std::int64_t count);
  std::int64_t place(std::int64_t session, std::int64_t layer) const {
    return (session * config_.layers + layer) * config_.kv_heads;
  }
  void recall();
  void cosines();

  const ModelConfig& config_;
  const EngineOptions& options_;
  const EngineMemory& memory_;
  Stream& compute_;
  std::int64_t sessions_ = 0;
  std::vector<float> recall_, cosine_;
};

}  // namespace longhaul
