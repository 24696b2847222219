// The heavy CPU operators beside what this machine can do, measured in the same run: float32 products and reading
// memory.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <chrono>
#include <cmath>
#include <dnnl.hpp>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"

using namespace longhaul;

namespace {

double seconds_of(const std::function<void()>& work) {
  auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double best_of(int times, const std::function<void()>& work) {
  double best = 1e30;
  for (int i = 0; i < times; ++i) best = std::min(best, seconds_of(work));
  return best;
}

/// FLOP/s of a 2048^3 float32 product on all cores.
double measure_sgemm() {
  const std::int64_t n = 2048;
  std::vector<float> a(n * n, 0.5f), b(n * n, 0.25f), c(n * n);
  omp_set_num_threads(static_cast<int>(std::thread::hardware_concurrency()));
  return 2.0 * n * n * n /
         best_of(8, [&] { dnnl_sgemm('N', 'N', n, n, n, 1, a.data(), n, b.data(), n, 0, c.data(), n); });
}

/// Bytes/s of reading 1 GiB with all cores.
double measure_read() {
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
}

double sgemm_peak() {
  static const double peak = measure_sgemm();
  return peak;
}
double read_peak() {
  static const double peak = measure_read();
  return peak;
}

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

/// Times `work` and sets beside the bound what it achieves in billions of `unit`.
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

template <class T>
constexpr DType kType = sizeof(T) == 2 ? DType::bf16 : DType::f32;

template <class T>
void linear_prefill(benchmark::State& state) {
  const std::int64_t tokens = state.range(0), in = state.range(1), out_dim = state.range(2);
  auto x = noise<T>(tokens * in), out = noise<T>(tokens * out_dim);
  auto w = noise<bf16>(out_dim * in);
  const LinearArgs args{x.data(), w.data(), out.data(), kType<T>, kType<T>, false, tokens, in, out_dim};
  measure(state, "GFLOP/s", 2.0 * tokens * in * out_dim, sgemm_peak(), [&] { cpu::linear(args); });
}

/// Weights far larger than the caches.
void linear_decode(benchmark::State& state) {
  const std::int64_t tokens = state.range(0), in = 4096, out_dim = 65536;
  auto x = noise<bf16>(tokens * in), w = noise<bf16>(out_dim * in), out = noise<bf16>(tokens * out_dim);
  const LinearArgs args{x.data(), w.data(), out.data(), DType::bf16, DType::bf16, false, tokens, in, out_dim};
  measure(state, "GB/s", 2.0 * in * out_dim, read_peak(), [&] { cpu::linear(args); });
}

/// `tokens` queries at the end of `rows` rows; 8 query heads, 2 KV heads.
template <class T>
void attend(benchmark::State& state) {
  const std::int64_t tokens = state.range(0), rows = state.range(1), d = state.range(2), heads = 8, kv_heads = 2;
  auto q = noise<T>(tokens * heads * d), kv = noise<T>(kv_heads * rows * 2 * d);
  std::vector<float> o(tokens * heads * d), m(tokens * heads), l(tokens * heads);
  const std::int64_t bytes = static_cast<std::int64_t>(kv.size() * sizeof(T));
  const AttendArgs args{q.data(),
                        heads * d,
                        {reinterpret_cast<std::byte*>(kv.data()), bytes / kv_heads, 0, rows},
                        {o.data(), m.data(), l.data()},
                        true,
                        kType<T>,
                        tokens,
                        heads,
                        kv_heads,
                        d,
                        rows - tokens,
                        1 / std::sqrt(static_cast<float>(d))};
  const double pairs = static_cast<double>(heads * (tokens * (rows - tokens) + tokens * (tokens + 1) / 2));
  if (tokens <= 16) measure(state, "GB/s", bytes, read_peak(), [&] { cpu::attend(args); });
  else measure(state, "GFLOP/s", 4.0 * d * pairs, sgemm_peak(), [&] { cpu::attend(args); });
}

BENCHMARK(linear_prefill<bf16>)
    ->ArgNames({"tokens", "in", "out"})
    ->Args({512, 2048, 2048})
    ->Args({2048, 4096, 4096})
    ->Args({2048, 384, 1024})
    ->UseManualTime();
BENCHMARK(linear_prefill<float>)->ArgNames({"tokens", "in", "out"})->Args({2048, 2048, 2048})->UseManualTime();
BENCHMARK(linear_decode)->ArgName("tokens")->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Arg(64)->UseManualTime();
BENCHMARK(attend<bf16>)
    ->ArgNames({"tokens", "rows", "d"})
    ->Args({4096, 4096, 64})
    ->Args({8192, 8192, 64})
    ->Args({16384, 16384, 64})
    ->Args({4096, 4096, 128})
    ->Args({8192, 8192, 128})
    ->Args({16384, 16384, 128})
    ->Args({1, 1 << 19, 64})
    ->Args({1, 1 << 19, 128})
    ->UseManualTime();
BENCHMARK(attend<float>)
    ->ArgNames({"tokens", "rows", "d"})
    ->Args({4096, 4096, 64})
    ->Args({4096, 4096, 128})
    ->Args({1, 1 << 18, 128})
    ->UseManualTime();

}  // namespace

BENCHMARK_MAIN();
