// What labels a fit's keys have in a basis: the range that codes cover, and what is left of the keys in them.
#pragma once
#include <vector>

#include "kernels/cpu/fit_queries.h"
#include "kernels/cpu/labels.h"

namespace longhaul::cpu {

/// Labels of keys in float32, less the zeros.
struct KeyLabels {
  std::vector<float> labels;  // [dims, padded]
  std::vector<double> sums;   // [dims] over the keys
};

/// Writes zero and step of the basis, and returns what is left of the keys' coordinates.
KeyLabels fit_ranges(const FitRows& rows, const Basis& basis, std::int64_t dims, std::int64_t bits);

}  // namespace longhaul::cpu
