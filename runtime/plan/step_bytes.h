// What a decode step must move, counted from shapes: the ground of predictions and of benchmarks' bounds.
#pragma once
#include <cstdint>

#include "offload/layer_plan.h"
#include "runtime/plan/plan.h"

namespace longhaul {

/// Bytes of one step of all sessions, each of `rows` rows.
struct StepBytes {
  std::int64_t weights = 0;           // that are read: of the embedding table a row, of experts those asked
  std::int64_t expansion = 0;         // packed weights read and bf16 written, of all experts
  std::int64_t streamed_weights = 0;  // of weights as they rest, what comes over the link
  std::int64_t labels = 0;            // each label once
  std::int64_t look_ahead = 0;        // labels read once more, to foretell the next layer's rows
  std::int64_t attended = 0;          // K and V
  std::int64_t streamed = 0;          // of those, what comes over the link at every step
  std::int64_t listed_rows = 0;       // selected rows (of one KV head) in layers whose rows move
};

/// Rows that a token attends in a layer of a session of n rows.
std::int64_t attended_rows(const LayerPlan& plan, const KvPolicy& policy, const KvShape& shape, std::int64_t n);

StepBytes step_bytes(const ModelConfig& config, const EngineOptions& options, std::int64_t rows);

}  // namespace longhaul
