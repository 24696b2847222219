// How long prefill and a decode step will take on a measured machine, by bytes and arithmetic alone.
//
// A step: weights (what packed ones are expanded from and to beside), labels (once more where look-ahead foretells) and
// attended rows at the rate of a device copy; over
// the link streamed rows, and of the selected ones those that an assumed share does not find in the resident set. With
// look-ahead, and for streamed tiles, the longer of the two counts, else their sum; of look_ahead = "auto" the shorter
// way.
//
// Prefill: products grow with the tokens and attention with their square, each at its measured rate; storing the rows
// runs behind that and counts where it takes longer.
//
// Launches, waits, sampling and the fit of labels are left out: small models are slower than this says.
#pragma once
#include "runtime/plan/machine_profile.h"
#include "runtime/plan/plan.h"

namespace longhaul {

struct Prediction {
  double hit_rate = 1;                          // assumed: of the selected rows, what the resident set holds
  double device_bytes = 0, link_bytes = 0;      // of a step
  double device_seconds = 0, link_seconds = 0;  // of a step
  double step_seconds = 0, tokens_per_second = 0;
  double prefill_seconds = 0;  // of one session
};

/// Of sessions of `rows` rows, under options that fit_to_budget has made.
Prediction predict(const ModelConfig& config, const EngineOptions& options, std::int64_t rows,
                   const MachineProfile& machine);

/// What a resident set of `cache` times the attended rows holds of the next step's, as traces of real documents have it
/// (DESIGN.md, "Accuracy of selection").
double assumed_hit_rate(double cache);

}  // namespace longhaul
