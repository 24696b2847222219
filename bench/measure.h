// What benchmarks share: the machine's bounds, measured in the same run, and a rate beside its bound.
#pragma once
#include <benchmark/benchmark.h>

#include <functional>
#include <random>
#include <vector>

#include "kernels/base/types.h"

namespace longhaul::bench {

double seconds_of(const std::function<void()>& work);
/// FLOP/s of a 2048^3 float32 product of oneDNN on all cores.
double sgemm_peak();
/// Bytes/s of reading 1 GiB with all cores.
double read_peak();

/// `n` elements of noise; a period that no block size divides.
template <class T>
std::vector<T> noise(std::int64_t n) {
  std::mt19937 engine(1);
  std::normal_distribution<float> draw;
  std::vector<T> few(99991), out(n);
  for (T& x : few) x = from_float<T>(draw(engine));
  for (std::int64_t i = 0; i < n; ++i) out[i] = few[i % few.size()];
  return out;
}

/// Times `work`; its rate in billions of `unit`, beside the bound.
void measure(benchmark::State& state, const char* unit, double amount, double peak, const std::function<void()>& work);

}  // namespace longhaul::bench
