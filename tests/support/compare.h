// How far two results are apart: one number for all, and where it first goes wrong.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>

#include "kernels/base/error.h"

namespace longhaul::test {

/// Normalised squared error, |got - want|^2 / |want|^2; infinite when `got` holds what is not finite.
inline double nmse(std::span<const double> got, std::span<const double> want) {
  check(got.size() == want.size(), "nmse: the sizes differ");
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return std::numeric_limits<double>::infinity();
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return norm > 0 ? error / norm : error;
}

/// The first element off by more than `tolerance` of the largest wanted one, as "[row, column]: got, want"; "" if none.
inline std::string first_bad(std::span<const double> got, std::span<const double> want, std::size_t columns,
                             double tolerance) {
  double largest = 0;
  for (double x : want) largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < got.size(); ++i)
    if (!(std::abs(got[i] - want[i]) <= tolerance * largest))
      return fmt::format("[{}, {}]: got {}, want {}", i / columns, i % columns, got[i], want[i]);
  return "";
}

}  // namespace longhaul::test
