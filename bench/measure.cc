#include "bench/measure.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <dnnl.hpp>
#include <thread>

#include "kernels/base/parallel.h"

namespace longhaul::bench {

double seconds_of(const std::function<void()>& work) {
  auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

namespace {

double best_of(int times, const std::function<void()>& work, double best = 1e30) {
  for (int i = 0; i < times; ++i) best = std::min(best, seconds_of(work));
  return best;
}

}  // namespace

double sgemm_peak() {
  static const double peak = [] {
    const std::int64_t n = 2048;
    std::vector<float> a(n * n, 0.5f), b(n * n, 0.25f), c(n * n);
    omp_set_num_threads(static_cast<int>(std::thread::hardware_concurrency()));
    const double seconds =
        best_of(8, [&] { dnnl_sgemm('N', 'N', n, n, n, 1, a.data(), n, b.data(), n, 0, c.data(), n); });
    omp_set_num_threads(1);  // as the operators hold it
    return 2.0 * n * n * n / seconds;
  }();
  return peak;
}

double read_peak() {
  static const double peak = [] {
    const std::int64_t words = (std::int64_t{1} << 30) / 8;
    std::vector<std::uint64_t> data(words, 1);
    return 8.0 * words / best_of(5, [&] {
             parallel_for(words >> 14, 16, [&](std::int64_t begin, std::int64_t end) {
               std::uint64_t sums[32] = {};
               for (std::int64_t i = begin << 14; i < end << 14; i += 32)
                 for (int j = 0; j < 32; ++j) sums[j] += data[i + j];
               benchmark::DoNotOptimize(sums);
             });
           });
  }();
  return peak;
}

void measure(benchmark::State& state, const char* unit, double amount, double peak, const std::function<void()>& work) {
  double seconds = 0;
  for (auto _ : state) {
    const double one = seconds_of(work);
    seconds += one;
    state.SetIterationTime(one);
  }
  const double rate = amount * static_cast<double>(state.iterations()) / seconds;
  state.counters[unit] = rate / 1e9;
  state.counters["bound"] = peak / 1e9;
  state.counters["ratio"] = rate / peak;
}

}  // namespace longhaul::bench
