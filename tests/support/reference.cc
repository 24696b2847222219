#include "tests/support/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace longhaul::test {

Doubles reference_rms_norm(const Doubles& x, const Doubles& gain, double eps) {
  const std::size_t n = gain.size();
  Doubles out(x.size());
  for (std::size_t row = 0; row < x.size(); row += n) {
    double squares = 0;
    for (std::size_t i = 0; i < n; ++i) squares += x[row + i] * x[row + i];
    for (std::size_t i = 0; i < n; ++i) out[row + i] = x[row + i] / std::sqrt(squares / n + eps) * gain[i];
  }
  return out;
}

Doubles reference_linear(const Doubles& x, const Doubles& w, std::int64_t in) {
  Doubles out;
  for (std::size_t t = 0; t < x.size(); t += in)
    for (std::size_t o = 0; o < w.size(); o += in) {
      double sum = 0;
      for (std::int64_t i = 0; i < in; ++i) sum += x[t + i] * w[o + i];
      out.push_back(sum);
    }
  return out;
}

Doubles reference_silu_mul(const Doubles& gate_up, std::int64_t inter) {
  Doubles out;
  for (std::size_t t = 0; t < gate_up.size(); t += 2 * inter)
    for (std::int64_t i = 0; i < inter; ++i)
      out.push_back(gate_up[t + i] / (1 + std::exp(-gate_up[t + i])) * gate_up[t + inter + i]);
  return out;
}

Doubles reference_rope(const Doubles& head, std::int32_t position, const std::vector<float>& inv_freq, double scale) {
  const std::size_t half = head.size() / 2;
  Doubles out(head.size());
  for (std::size_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * inv_freq[i];
    const double c = std::cos(static_cast<double>(angle)) * scale, s = std::sin(static_cast<double>(angle)) * scale;
    out[i] = head[i] * c - head[i + half] * s;
    out[i + half] = head[i + half] * c + head[i] * s;
  }
  return out;
}

Doubles ReferenceState::finished() const {
  Doubles out(o.size());
  for (std::size_t i = 0; i < o.size(); ++i) out[i] = l > 0 ? o[i] / l : 0;
  return out;
}

ReferenceState reference_attend(const Doubles& q, const Doubles& rows, std::int64_t count, double scale) {
  const std::size_t d = q.size();
  ReferenceState state{Doubles(d), -std::numeric_limits<double>::infinity(), 0};
  Doubles scores(count);
  for (std::int64_t r = 0; r < count; ++r) {
    for (std::size_t i = 0; i < d; ++i) scores[r] += q[i] * rows[r * 2 * d + i];
    scores[r] *= scale;
    state.m = std::max(state.m, scores[r]);
  }
  for (std::int64_t r = 0; r < count; ++r) {
    const double p = std::exp(scores[r] - state.m);
    state.l += p;
    for (std::size_t i = 0; i < d; ++i) state.o[i] += p * rows[r * 2 * d + d + i];
  }
  return state;
}

}  // namespace longhaul::test
