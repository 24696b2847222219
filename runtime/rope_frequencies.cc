// Frequencies of the rotary embedding, rounded where the reference (transformers' modeling_rope_utils on torch) rounds:
// float32 throughout, and a scalar divided by a tensor is the scalar times the rounded reciprocal.
#include <cmath>
#include <numbers>

#include "runtime/model_config.h"

namespace longhaul {
namespace {

/// The dynamic (NTK) type stretches the base once the sequence is longer than the model was trained for.
float dynamic_base(const RopeConfig& rope, std::int64_t head_dim, std::int64_t seq_len) {
  if (seq_len <= rope.original_max_position) return static_cast<float>(rope.theta);
  const auto factor = static_cast<float>(rope.factor);
  const float stretch = factor * static_cast<float>(seq_len) / static_cast<float>(rope.original_max_position) -
                        static_cast<float>(rope.factor - 1);
  const double exponent = static_cast<double>(head_dim) / static_cast<double>(head_dim - 2);
  return static_cast<float>(rope.theta) * std::pow(stretch, static_cast<float>(exponent));
}

/// Low frequencies are divided by the factor, high ones stay, those between are blended.
float llama3_frequency(const RopeConfig& rope, float frequency) {
  const auto factor = static_cast<float>(rope.factor);
  const auto trained = static_cast<double>(rope.original_max_position);
  const float wavelength = (1.0f / frequency) * static_cast<float>(2 * std::numbers::pi);
  if (wavelength > static_cast<float>(trained / rope.low_freq_factor)) return frequency / factor;
  if (wavelength < static_cast<float>(trained / rope.high_freq_factor)) return frequency;
  const float turns = (1.0f / wavelength) * static_cast<float>(trained);  // over the trained context
  const float smooth = (turns - static_cast<float>(rope.low_freq_factor)) /
                       static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

}  // namespace

std::vector<float> rope_frequencies(const RopeConfig& rope, std::int64_t head_dim, std::int64_t seq_len) {
  const float base =
      rope.type == RopeType::dynamic ? dynamic_base(rope, head_dim, seq_len) : static_cast<float>(rope.theta);
  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < head_dim; i += 2) {
    float frequency = 1.0f / std::pow(base, static_cast<float>(i) / static_cast<float>(head_dim));
    if (rope.type == RopeType::linear) frequency /= static_cast<float>(rope.factor);
    if (rope.type == RopeType::llama3) frequency = llama3_frequency(rope, frequency);
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace longhaul
