// The heavy CPU operators beside what this machine can do, measured in the same run: float32 products and reading
// memory.
#include <cmath>

#include "bench/measure.h"
#include "kernels/cpu/ops.h"

using namespace longhaul;
using namespace longhaul::bench;

namespace {

template <class T>
constexpr DType kType = sizeof(T) == 2 ? DType::bf16 : DType::f32;

template <class T>
void linear_prefill(benchmark::State& state) {
  const std::int64_t tokens = state.range(0), in = state.range(1), out_dim = state.range(2);
  auto x = noise<T>(tokens * in), out = noise<T>(tokens * out_dim);
  auto w = noise<bf16>(out_dim * in);
  const LinearArgs args{x.data(), w.data(), nullptr, out.data(), kType<T>, kType<T>, false, tokens, in, out_dim};
  measure(state, "GFLOP/s", 2.0 * tokens * in * out_dim, sgemm_peak(), [&] { cpu::linear(args); });
}

/// Weights far larger than the caches.
void linear_decode(benchmark::State& state) {
  const std::int64_t tokens = state.range(0), in = 4096, out_dim = 65536;
  auto x = noise<bf16>(tokens * in), w = noise<bf16>(out_dim * in), out = noise<bf16>(tokens * out_dim);
  const LinearArgs args{x.data(), w.data(), nullptr, out.data(), DType::bf16, DType::bf16, false, tokens, in, out_dim};
  measure(state, "GB/s", 2.0 * in * out_dim, read_peak(), [&] { cpu::linear(args); });
}

/// `tokens` queries (0: one a row) at the end of `rows` rows; 8 query heads, 2 KV heads.
template <class T>
void attend(benchmark::State& state) {
  const std::int64_t rows = state.range(1), tokens = state.range(0) ? state.range(0) : rows, d = state.range(2);
  const std::int64_t heads = 8, kv_heads = 2;
  auto q = noise<T>(tokens * heads * d), kv = noise<T>(kv_heads * rows * 2 * d);
  std::vector<float> o(tokens * heads * d), m(tokens * heads), l(tokens * heads);
  std::vector<T> out(tokens * heads * d);
  const std::int64_t bytes = static_cast<std::int64_t>(kv.size() * sizeof(T));
  const AttendArgs args{q.data(),
                        heads * d,
                        {reinterpret_cast<std::byte*>(kv.data()), bytes / kv_heads, 0, rows},
                        {o.data(), m.data(), l.data()},
                        out.data(),
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
    ->ArgsProduct({{0}, {4096, 8192, 16384}, {64, 128}})
    ->ArgsProduct({{1}, {1 << 19}, {64, 128}})
    ->UseManualTime();
BENCHMARK(attend<float>)
    ->ArgNames({"tokens", "rows", "d"})
    ->ArgsProduct({{0}, {4096}, {64, 128}})
    ->Args({1, 1 << 18, 128})
    ->UseManualTime();

}  // namespace

BENCHMARK_MAIN();
