// The operators of label-selected attention beside what this machine can do, measured in the same run.
#include <cmath>
#include <numeric>

#include "bench/measure.h"
#include "kernels/base/bytes.h"
#include "kernels/cpu/ops.h"

using namespace longhaul;
using namespace longhaul::bench;

namespace {

constexpr std::int64_t kKvHeads = 2, kGroup = 3, kQHeads = kKvHeads * kGroup, kDim = 128;

/// A layer of bf16 rows with labels of it.
struct Layer {
  std::int64_t rows, dims, bits = 4, row_bytes = 2 * kDim * 2;
  std::vector<bf16> kv = noise<bf16>(kKvHeads * rows * 2 * kDim), q = noise<bf16>(2048 * kQHeads * kDim);
  std::vector<std::byte> codes =
      std::vector<std::byte>(kKvHeads * ceil_div(rows, kAttendBlock) * label_block_bytes(dims, bits));
  std::vector<float> basis = noise<float>(kKvHeads * label_basis_floats(dims, kDim));
  std::vector<float> inv_freq = std::vector<float>(kDim / 2, 0.01f);
  float scale = 1 / std::sqrt(static_cast<float>(kDim));

  StepSpan span{.slot = 0,
                .rows = static_cast<std::int32_t>(rows),
                .ring_first = static_cast<std::int32_t>(rows),
                .budget = static_cast<std::int32_t>(rows / 16),
                .sinks = 4,
                .window = 32};

  StepBatch batch() const { return {&span, 1, rows}; }
  KvTile tile() { return {reinterpret_cast<std::byte*>(kv.data()), rows * row_bytes, 0, rows}; }
  LabelTile labels() {
    return {codes.data(), static_cast<std::int64_t>(codes.size()) / kKvHeads, basis.data(), dims, bits};
  }
  FitLabelsArgs fit(LabelFit how) {
    return {tile(),
            q.data(),
            std::min<std::int64_t>(rows, 2048),
            0,
            inv_freq.data(),
            rows,
            1024,
            labels(),
            how,
            1. / 16,
            DType::bf16,
            kQHeads,
            kKvHeads,
            kDim,
            scale,
            nullptr};
  }
  LabelRowsArgs label() { return {tile(), labels(), DType::bf16, kKvHeads, kDim}; }
};

/// Every row of the layer once, bound by reading the keys.
void label_rows(benchmark::State& state) {
  Layer layer{state.range(0), state.range(1)};
  cpu::fit_labels(layer.fit(LabelFit::rms));
  const LabelRowsArgs args = layer.label();
  measure(state, "GB/s", static_cast<double>(layer.kv.size()), read_peak(), [&] { cpu::label_rows(args); });
}

void fit_labels(benchmark::State& state) {
  Layer layer{state.range(0), state.range(1)};
  const FitLabelsArgs args = layer.fit(static_cast<LabelFit>(state.range(2)));
  const double moments =
      2.0 * kDim * kDim * static_cast<double>(kKvHeads * (std::min<std::int64_t>(layer.rows, 4096) + 2048 * kGroup));
  measure(state, "GFLOP/s", moments, sgemm_peak(), [&] { cpu::fit_labels(args); });
}

/// What a layer's prefill leaves to the host: the fit to a document, with the tail's weights. Work is what the
/// definition takes: moments, true scores and values of the trials.
void fit_document(benchmark::State& state) {
  const std::int64_t kv_heads = state.range(0), q_heads = kv_heads * state.range(1), rows = 8192, queries = 2048;
  const std::int64_t dims = 32;
  std::vector<bf16> kv = noise<bf16>(kv_heads * rows * 2 * kDim), q = noise<bf16>(queries * q_heads * kDim);
  std::vector<float> basis(kv_heads * label_basis_floats(dims, kDim) + tail_fit_floats(q_heads, kv_heads, kDim));
  std::vector<float> inv_freq(kDim / 2, 0.01f);
  const FitLabelsArgs args{
      .kv = {reinterpret_cast<std::byte*>(kv.data()), rows * 2 * kDim * 2, 0, rows},
      .q = q.data(),
      .queries = queries,
      .q_pos = rows - queries,
      .inv_freq = inv_freq.data(),
      .target = rows,
      .targets = 1024,
      .labels = {nullptr, 0, basis.data(), dims, 4},
      .fit = LabelFit::document,
      .share = 1. / 16,
      .act = DType::bf16,
      .q_heads = q_heads,
      .kv_heads = kv_heads,
      .head_dim = kDim,
      .scale = 1 / std::sqrt(static_cast<float>(kDim)),
      .host = nullptr,
      .weighs_tail = true,
      .sinks = 4,
      .window = 32,
  };
  const auto keys = static_cast<double>(kv_heads * kFitKeys), asked = static_cast<double>(q_heads);
  const double work = 2.0 * kDim * (kDim * (keys + 2048 * asked) + kFitKeys * asked * (32 + 2 * 64));
  measure(state, "GFLOP/s", work, sgemm_peak(), [&] { cpu::fit_labels(args); });
}

/// One token, a sixteenth of the rows; the bound is reading the labels once.
void select(benchmark::State& state) {
  Layer layer{state.range(0), state.range(1)};
  cpu::fit_labels(layer.fit(LabelFit::rms));
  cpu::label_rows(layer.label());
  std::vector<float> scratch(select_floats(1, kQHeads, kKvHeads, layer.rows));
  std::vector<std::int32_t> rows(kKvHeads * layer.rows), count(kKvHeads);
  const float top_p = state.range(2) ? 0.9f : 1;
  const SelectArgs args{layer.q.data(),
                        kQHeads * kDim,
                        layer.batch(),
                        DType::bf16,
                        kQHeads,
                        kKvHeads,
                        kDim,
                        layer.scale,
                        SelectBy::labels,
                        Combine::mean,
                        layer.labels(),
                        nullptr,
                        0,
                        0,
                        top_p,
                        scratch.data(),
                        {rows.data(), count.data(), layer.rows}};
  measure(state, "GB/s", static_cast<double>(layer.codes.size()), read_peak(), [&] { cpu::select(args); });
}

/// A list of this many rows out of 16 times as many; the bound is reading them in order.
void attend_list(benchmark::State& state) {
  Layer layer{16 * state.range(0), 4};
  const std::int64_t n = state.range(0);
  std::vector<std::int32_t> rows(kKvHeads * n), count(kKvHeads, static_cast<std::int32_t>(n));
  for (std::int64_t i = 0; i < kKvHeads * n; ++i) rows[i] = static_cast<std::int32_t>(i % n * 16 + i * 7 % 16);
  std::vector<float> o(kQHeads * kDim), m(kQHeads), l(kQHeads), scores(kQHeads * n);
  std::vector<bf16> out(kQHeads * kDim);
  AttendListArgs args{.q = layer.q.data(),
                      .q_stride = kQHeads * kDim,
                      .batch = layer.batch(),
                      .rows = {rows.data(), count.data(), n},
                      .scores = scores.data(),
                      .state = {o.data(), m.data(), l.data()},
                      .act = DType::bf16,
                      .q_heads = kQHeads,
                      .kv_heads = kKvHeads,
                      .head_dim = kDim,
                      .scale = layer.scale};
  args.regions.prefix = layer.tile();
  const double bytes = static_cast<double>(kKvHeads * n * layer.row_bytes);
  measure(state, "GB/s", bytes, read_peak(), [&] { cpu::finish_list({args, false, out.data()}); });
}

/// The same rows, one after the other: what a list is to be compared with.
void attend_run(benchmark::State& state) {
  Layer layer{state.range(0), 4};
  std::vector<float> o(kQHeads * kDim), m(kQHeads), l(kQHeads);
  const AttendStepArgs args{
      layer.q.data(), kQHeads * kDim, layer.batch(), layer.tile(), StepRows::tile, {o.data(), m.data(), l.data()},
      nullptr,        true,           DType::bf16,   kQHeads,      kKvHeads,       kDim,
      layer.scale};
  const double bytes = static_cast<double>(kKvHeads * layer.rows * layer.row_bytes);
  measure(state, "GB/s", bytes, read_peak(), [&] { cpu::attend_step(args); });
}

/// A new eighth of `range` rows a step into four times as many slots.
void retain(benchmark::State& state) {
  const std::int64_t n = state.range(0), slots = 4 * n, all = 64 * n, row_bytes = 512;
  std::vector<std::byte> staging(kKvHeads * n * row_bytes), cache(kKvHeads * slots * row_bytes);
  std::vector<std::int32_t> rows(kKvHeads * n), count(kKvHeads, static_cast<std::int32_t>(n)), places(kKvHeads * n);
  std::vector<std::int32_t> slot_of(kKvHeads * all, -1), row_of(kKvHeads * slots, -1), used_at(kKvHeads * slots);
  RetainArgs args{};
  args.rows = {rows.data(), count.data(), n};
  args.places = places.data();
  args.regions.cache = {cache.data(), slots * row_bytes, 0, slots};
  args.regions.staging = {staging.data(), n * row_bytes, 0, n};
  StepSpan span{
      .slot = 0, .rows = 0, .ring_first = static_cast<std::int32_t>(all), .budget = 0, .sinks = 0, .window = 0};
  args.batch = {&span, 1, all};
  args.resident = {slot_of.data(), all, 0, row_of.data(), used_at.data(), slots, 0};
  args.kv_heads = kKvHeads, args.row_bytes = row_bytes;
  measure(state, "GB/s", 2.0 * kKvHeads * n / 8 * row_bytes, read_peak(), [&] {
    ++span.rows;
    for (std::int64_t h = 0; h < kKvHeads; ++h)
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t r = (i * 8 + (i < 7 * n / 8 ? 0 : span.rows % 8)) * 8 % all;
        rows[h * n + i] = static_cast<std::int32_t>(r);
        const std::int32_t slot = slot_of[h * all + r];
        places[h * n + i] = slot >= 0 ? row_place(Region::cache, slot) : row_place(Region::staging, i);
      }
    cpu::retain(args);
  });
}

BENCHMARK(label_rows)->ArgNames({"rows", "dims"})->Args({16384, 16})->Args({16384, 32})->UseManualTime();
BENCHMARK(fit_labels)
    ->ArgNames({"rows", "dims", "fit"})
    ->ArgsProduct({{16384}, {16}, {1, 2, 3}})
    ->Args({131072, 16, 1})
    ->UseManualTime();
BENCHMARK(fit_document)->ArgNames({"kv_heads", "group"})->Args({8, 4})->Args({2, 3})->UseManualTime();
BENCHMARK(select)
    ->ArgNames({"rows", "dims", "top_p"})
    ->ArgsProduct({{16384}, {8, 16, 32}, {0, 1}})
    ->Args({131072, 16, 0})
    ->Args({1 << 20, 16, 0})
    ->UseManualTime();
BENCHMARK(attend_list)->ArgName("listed")->Arg(1024)->Arg(8192)->Arg(32768)->UseManualTime();
BENCHMARK(attend_run)->ArgName("rows")->Arg(1024)->Arg(8192)->Arg(32768)->UseManualTime();
BENCHMARK(retain)->ArgName("listed")->Arg(1024)->Arg(8192)->UseManualTime();

}  // namespace

BENCHMARK_MAIN();
