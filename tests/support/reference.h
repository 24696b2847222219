// Every operator as its definition reads, in double precision: what all devices are compared with.
#pragma once
#include <cstdint>
#include <vector>

namespace longhaul::test {

using Doubles = std::vector<double>;

Doubles reference_rms_norm(const Doubles& x, const Doubles& gain, double eps);  // rows of gain.size()
Doubles reference_linear(const Doubles& x, const Doubles& w, std::int64_t in);  // [tokens, in] * [out, in]^T
Doubles reference_silu_mul(const Doubles& gate_up, std::int64_t inter);
/// Turns one head of one token; inv_freq and position are multiplied in float32, as the definition says.
Doubles reference_rope(const Doubles& head, std::int32_t position, const std::vector<float>& inv_freq, double scale);

/// Partial attention of one query over rows of K | V, the row's width being 2 * q.size().
struct ReferenceState {
  Doubles o;
  double m, l;
  Doubles finished() const;  // o / l, zeros when empty
};
ReferenceState reference_attend(const Doubles& q, const Doubles& rows, std::int64_t count, double scale);

}  // namespace longhaul::test
