// Frequencies of the rotary embedding, rounded where the reference (transformers' modeling_rope_utils on torch) rounds:
// float32 throughout, and a scalar divided by a tensor is the scalar times the rounded reciprocal.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

#include "runtime/model/model_config.h"

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

/// Of yarn: dimension i / 2 keeps the share 1 - ramp of its own frequency and takes the rest of the stretched one.
class YarnRamp {
 public:
  YarnRamp(const RopeConfig& rope, std::int64_t head_dim) {
    auto dimension = [&](double turns) {  // that makes so many turns over the trained context
      const auto d = static_cast<double>(head_dim), trained = static_cast<double>(rope.original_max_position);
      return d * std::log(trained / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
    };
    double low = dimension(rope.beta_fast), high = dimension(rope.beta_slow);
    if (rope.truncate) low = std::floor(low), high = std::ceil(high);
    low_ = std::max(low, 0.0);
    high_ = std::min(high, static_cast<double>(head_dim - 1));
    if (low_ == high_) high_ += 0.001;
  }
  float operator()(std::int64_t i) const {
    return std::clamp((static_cast<float>(i / 2) - static_cast<float>(low_)) / static_cast<float>(high_ - low_), 0.0f,
                      1.0f);
  }

 private:
  double low_, high_;
};

float yarn_frequency(const RopeConfig& rope, float stretch, float ramp) {
  const float own = 1.0f - ramp;
  return 1.0f / (static_cast<float>(rope.factor) * stretch) * (1.0f - own) + 1.0f / stretch * own;
}

}  // namespace

std::vector<float> rope_frequencies(const RopeConfig& rope, std::int64_t head_dim, std::int64_t seq_len) {
  const float base =
      rope.type == RopeType::dynamic ? dynamic_base(rope, head_dim, seq_len) : static_cast<float>(rope.theta);
  std::optional<YarnRamp> ramp;
  if (rope.type == RopeType::yarn) ramp.emplace(rope, head_dim);
  const std::vector<double>& factors = seq_len > rope.original_max_position ? rope.long_factors : rope.short_factors;
  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < head_dim; i += 2) {
    float stretch = std::pow(base, static_cast<float>(i) / static_cast<float>(head_dim));
    if (rope.type == RopeType::longrope) stretch *= static_cast<float>(factors[static_cast<std::size_t>(i / 2)]);
    float frequency = 1.0f / stretch;
    if (ramp) frequency = yarn_frequency(rope, stretch, (*ramp)(i));
    if (rope.type == RopeType::linear) frequency /= static_cast<float>(rope.factor);
    if (rope.type == RopeType::llama3) frequency = llama3_frequency(rope, frequency);
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace longhaul
