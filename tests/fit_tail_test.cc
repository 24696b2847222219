// The tail fit: what label scores lack, and the weights, against their definitions.
#include <array>
#include <cmath>
#include <numeric>

#include "tests/support/catch.h"
#include "tests/support/fit_layer.h"

using namespace longhaul;
using namespace longhaul::test;

TEST_CASE("fit_tail: with what is beside them, label scores have the mean of true ones") {
  Random random(107);
  for (LabelFit how : {LabelFit::document, LabelFit::abs, LabelFit::given})
    for (std::int64_t bits : {4, 8, 16}) {
      Layer layer{DType::f32, 2, 2, 24, 200, 20, 5, bits};
      layer.fill(random);
      if (how == LabelFit::given) layer.labels.random_basis(random);
      layer.fit(how);
      cpu::label_rows({layer.tile(), layer.labels.tile(), DType::f32, 2, 24});
      for (std::int64_t g = 0; g < 4; ++g) {
        const std::int64_t h = g / 2;
        const auto query = [&](auto i) { return layer.q.get(g * 24 + i); };
        double truth = 0, estimate = -layer.labels.zeros(h, query) * 200;
        for (std::int64_t r = 0; r < 200; ++r) {
          for (std::int64_t i = 0; i < 24; ++i) truth += query(i) * layer.kv.get((h * 200 + r) * 2 * 24 + i);
          for (std::int64_t j = 0; j < 5; ++j)
            estimate += layer.labels.coordinate(h, r, j) * layer.labels.project(layer.labels.query_map(h), j, query);
        }
        estimate += layer.labels.project(layer.labels.tail(4).beside, h, query) * 200;
        CHECK(std::abs(truth - estimate) / 200 < 2e-4 * (1 + std::abs(truth) / 200));
      }
    }
}

TEST_CASE("fit_tail: the tail's weights come nearest to the queries' true outputs") {
  Random random(108);
  constexpr std::int64_t kGroup = 2, kDim = 24, kRows = 300, kQueries = 64, kDims = 3;
  const auto chunk = GENERATE(std::int64_t{0}, std::int64_t{256});  // with a border among the rows and the queries
  for (LabelFit how : {LabelFit::document, LabelFit::k}) {
    Layer layer{DType::f32, 2, kGroup, kDim, kRows, kQueries, kDims, 4};
    layer.chunk = chunk, layer.reach = 320;
    layer.fill(random);
    const Tensor values = random.normal(DType::f32, layer.kv.size);
    for (std::int64_t i = 0; i < layer.kv.size; ++i)
      if (i / kDim % 2 == 1) layer.kv.set(i, values.get(i));
    for (std::int64_t h = 0; h < 2; ++h)  // a sink that is not the first row, and that queries go to
      for (std::int64_t c = 0; c < kDim; ++c) {
        const std::int64_t at = (h * kRows + 1) * 2 * kDim + c;
        layer.kv.set(at, 4 * layer.kv.get(at));
      }
    layer.fit(how);
    cpu::label_rows({layer.tile(), layer.labels.tile(), DType::f32, 2, kDim});
    const FitLabelsArgs args = layer.args(how);
    const TailFit fit = layer.labels.tail(layer.q_heads);
    for (std::int64_t h = 0; h < 2; ++h) {
      auto element = [&](std::int64_t r, std::int64_t i) { return layer.kv.get((h * kRows + r) * 2 * kDim + i); };
      std::vector<double> mean(kDim);
      for (std::int64_t r = 0; r < kRows; ++r)
        for (std::int64_t c = 0; c < kDim; ++c) mean[c] += element(r, kDim + c) / kRows;
      std::vector<std::vector<std::array<double, 4>>> trials(kGroup);  // tail, along, square, share before the window
      for (std::int64_t t = 0; t < kQueries; ++t) {
        const std::int64_t now = args.q_pos + t, seen = now + 1 - args.window;
        std::vector<std::vector<double>> truth(kGroup), estimate(kGroup);
        std::vector<double> combined(seen);
        for (std::int64_t g = 0; g < kGroup; ++g) {
          double sum = 0;
          for (std::int64_t r = 0; r <= now; ++r) {
            const auto asked = layer.asked(t, h * kGroup + g, now, r);
            const auto query = [&](auto i) { return asked[i]; };
            double exact = 0;
            double by_label = layer.labels.project(fit.beside, h, query) - layer.labels.zeros(h, query);
            for (std::int64_t i = 0; i < kDim; ++i) exact += query(i) * element(r, i);
            for (std::int64_t j = 0; j < kDims; ++j)
              by_label += layer.labels.coordinate(h, r, j) * layer.labels.project(layer.labels.query_map(h), j, query);
            truth[g].push_back(std::exp(exact * args.scale));
            estimate[g].push_back(std::exp(by_label * args.scale));
            if (r < seen) sum += estimate[g].back();
          }
          for (std::int64_t r = 0; r < seen; ++r) combined[r] += estimate[g][r] / sum;
        }
        std::vector<std::int64_t> rows(seen);
        std::iota(rows.begin(), rows.end(), 0);
        std::ranges::sort(
            rows, [&](auto x, auto y) { return x < args.sinks || y < args.sinks ? x < y : combined[x] > combined[y]; });
        rows.resize(static_cast<std::size_t>(std::ceil(args.share * static_cast<double>(seen))));
        for (std::int64_t g = 0; g < kGroup; ++g) {
          std::vector<bool> in(seen);
          for (auto r : rows) in[r] = true;
          double all = 0, some = 0, rest = 0, recent = 0;
          std::vector<double> whole(kDim), listed(kDim);
          for (std::int64_t r = 0; r <= now; ++r) {
            const double weight = truth[g][r];
            if (r >= seen) recent += weight;
            if (r >= seen) continue;
            all += weight;
            if (in[r]) some += weight;
            else rest += estimate[g][r];
            for (std::int64_t c = 0; c < kDim; ++c) {
              whole[c] += weight * element(r, kDim + c);
              if (in[r]) listed[c] += weight * element(r, kDim + c);
            }
          }
          double along = 0, square = 0;
          for (std::int64_t c = 0; c < kDim; ++c) {
            const double from = listed[c] / some, to = mean[c] - from;
            along += (whole[c] / all - from) * to, square += to * to;
          }
          trials[g].push_back({rest / some, along, square, all / (all + recent)});
        }
      }
      for (std::int64_t g = 0; g < kGroup; ++g) {
        auto error = [&](double w) {
          double sum = 0;
          for (const auto& [tail, along, square, before] : trials[g]) {
            const double share = w * tail / (1 + w * tail);
            sum += before * before * share * (share * square - 2 * along);
          }
          return sum;
        };
        const double weight = fit.weights[h * kGroup + g];
        INFO("fit " << static_cast<int>(how) << " weight " << weight);
        CHECK(error(weight) < 0);  // better than no tail
        for (double other = 1e-3; other < 8; other *= 1.05)
          CHECK(error(weight) <= error(other) + 0.01 * std::abs(error(other)));
      }
    }
  }
}
