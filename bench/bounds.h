// The least time that a step and a prefill can take on a device, from what they must move and compute and from its
// peaks, measured in the same run.
#pragma once
#include <string>

#include "bench/synthetic_run.h"

namespace longhaul::bench {

/// Bytes/s of copies within the device, and over the link to it.
struct Peaks {
  double copy, link;
};
Peaks measure_peaks(const std::string& device);

struct StepBound {
  double device, link;  // bytes that a step must move
  double seconds;       // at the peaks, both at once
  /// "the bound: N bytes of device memory, N over the link (N came)".
  std::string text;
};
/// Over the link come what is streamed, and of the listed rows those that were not on the device, whether look-ahead
/// foretold them or not. Rows that it foretold wrongly come, too, but no step must bring them: they are told, and do
/// not count.
StepBound step_bound(const StepRun& run, const Peaks& peaks);

/// Products of all tokens but the embedding's, and causal attention.
double prefill_flops(const ModelConfig& config, const StepBytes& bytes, std::int64_t tokens);

}  // namespace longhaul::bench
