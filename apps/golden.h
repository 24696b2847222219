// Comparison with logits that Hugging Face transformers computed: golden_check's and the tests' common part.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "runtime/plan/plan.h"

namespace longhaul {

/// Tensors of a golden.safetensors: input_ids [n], logits [the last `rows` positions, vocab], and the greedy answer.
struct Golden {
  std::vector<std::int32_t> input_ids, greedy_ids;
  std::vector<float> logits, greedy_margin;
  std::int64_t rows, vocab;
};
Golden load_golden(const std::filesystem::path& file);

struct GoldenResult {
  double nmse;         // the worse of the two: all positions by prefill; by prefill of the first and decode of the rest
  double nmse_median;  // the same of the median over positions
  double rms;          // of the logit errors of the decoded run
  std::int64_t greedy_equal, greedy_total;  // positions whose margin is above 6 * rms
};

/// `options`: policy, resident and activations; the rest is set here. f32 activations are held to exactness, so the
/// golden logits are read at every position.
GoldenResult compare_golden(Device& device, const std::filesystem::path& model_dir, const Golden& golden,
                            EngineOptions options);

}  // namespace longhaul
