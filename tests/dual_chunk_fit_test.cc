// fit_labels for dual-chunk attention: queries are fitted to as they will ask the keys of each chunk.
#include <numeric>

#include "kernels/cpu/label_basis.h"
#include "tests/support/catch.h"
#include "tests/support/fit_layer.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

constexpr std::int64_t kHeads = 2, kGroup = 2, kD = 16, kRows = 700, kQueries = 40, kDims = 5;
constexpr LabelFit kFits[] = {LabelFit::document, LabelFit::moments, LabelFit::q,     LabelFit::k,    LabelFit::qk,
                              LabelFit::abs,      LabelFit::rms,     LabelFit::pairs, LabelFit::given};

Layer layer_of(Random& random, std::int64_t chunk, std::int64_t dims = kDims, std::int64_t bits = 4) {
  Layer layer{DType::f32, kHeads, kGroup, kD, kRows, kQueries, dims, bits};
  layer.fill(random);
  layer.labels.random_basis(random);
  layer.chunk = chunk, layer.reach = chunk + chunk / 4;
  return layer;
}

}  // namespace

TEST_CASE("dual-chunk fit_labels: within the first chunk the bits are plain attention's") {
  for (LabelFit how : kFits) {
    Random random(310);
    Layer plain = layer_of(random, 0), chunked = plain;
    chunked.chunk = 1024, chunked.reach = 1100;
    plain.fit(how, 800, 224), chunked.fit(how, 800, 224);
    CHECK(plain.labels.basis == chunked.labels.basis);
    chunked.chunk = 256, chunked.reach = 320;
    chunked.fit(how, 800, 224);
    if (how == LabelFit::moments) CHECK(plain.labels.basis != chunked.labels.basis);
  }
}

TEST_CASE("dual-chunk fit_labels: where RoPE turns nothing there are no forms to tell apart") {
  for (LabelFit how : {LabelFit::q, LabelFit::k, LabelFit::abs, LabelFit::rms, LabelFit::given}) {
    Random random(311);
    Layer plain = layer_of(random, 0), chunked = plain;
    std::ranges::fill(plain.inv_freq, 0.0f);
    chunked.inv_freq = plain.inv_freq, chunked.chunk = 256, chunked.reach = 320;
    plain.fit(how), chunked.fit(how);
    CHECK(plain.labels.basis == chunked.labels.basis);
  }
}

TEST_CASE("dual-chunk fit_labels: queries count in each form by the keys that it asks", "[numbers]") {
  Random random(312);
  for (std::int64_t target : {700, 768, 900, 5000}) {
    Layer layer = layer_of(random, 256, kDims, 16);
    std::vector<double> mean(kD);
    std::vector<double> q_moment(kHeads * kD * kD), k_moment = q_moment, worth(kHeads * kD);
    for (std::int64_t h = 0; h < kHeads; ++h) {
      std::ranges::fill(mean, 0.0);
      for (std::int64_t r = 0; r < kRows; ++r)
        for (std::int64_t c = 0; c < kD; ++c) mean[c] += layer.key(h, r, c) / kRows;
      for (std::int64_t r = 0; r < kRows; ++r)
        for (std::int64_t a = 0; a < kD; ++a)
          for (std::int64_t b = 0; b < kD; ++b)
            k_moment[(h * kD + a) * kD + b] += (layer.key(h, r, a) - mean[a]) * (layer.key(h, r, b) - mean[b]);
      for (std::int64_t i = 0; i < kQueries; ++i)
        for (std::int64_t g = h * kGroup; g < (h + 1) * kGroup; ++g)
          for (std::int64_t r = 0; r < kRows; r += 4) {  // four rows have one form
            const auto x = layer.asked(i, g, target, r);
            for (std::int64_t a = 0; a < kD; ++a) {
              worth[h * kD + a] += std::abs(x[a]) * 4 / kRows;
              for (std::int64_t b = 0; b < kD; ++b) q_moment[(h * kD + a) * kD + b] += x[a] * x[b] * 4 / kRows;
            }
          }
    }
    layer.fit(LabelFit::q, target, 1);
    for (std::int64_t h = 0; h < kHeads; ++h) {
      std::vector<std::int64_t> order(kD);
      std::iota(order.begin(), order.end(), 0);
      std::ranges::sort(order, [&](auto a, auto b) { return worth[h * kD + a] > worth[h * kD + b]; });
      for (std::int64_t j = 0; j < kDims; ++j) {
        double chosen = 0;
        for (std::int64_t i = 0; i < kDims; ++i) chosen += layer.labels.key_map(h)[i * kD + order[j]];
        CHECK(chosen == 1);
      }
    }
    layer.fit(LabelFit::moments, target, 1);
    for (std::int64_t h = 0; h < kHeads; ++h) {
      double trace = 0;
      for (std::int64_t c = 0; c < kD; ++c) trace += q_moment[(h * kD + c) * kD + c];
      for (std::int64_t c = 0; c < kD; ++c) q_moment[(h * kD + c) * kD + c] += 0.05 * trace / kD;  // queries not seen
      FloatRows keys(kDims, kD), queries(kDims, kD);
      REQUIRE(
          cpu::best_basis({&q_moment[h * kD * kD], &k_moment[h * kD * kD], kD}, kDims, keys.data(), queries.data()));
      const FloatRows want = queries.transpose() * keys;
      const Eigen::Map<FloatRows> key_map(layer.labels.key_map(h), kDims, kD),
          query_map(layer.labels.query_map(h), kDims, kD);
      CHECK((query_map.transpose() * key_map - want).norm() <= 2e-3f * want.norm());
    }
  }
}

TEST_CASE("dual-chunk fit_labels: with all dimensions, labels and what they lack give a query's scores in every form") {
  Random random(313);
  for (LabelFit how : {LabelFit::document, LabelFit::moments}) {
    Layer layer = layer_of(random, 256, kD, 16);
    layer.fit(how, kRows - 1, 1);
    cpu::label_rows({layer.tile(), layer.labels.tile(), DType::f32, kHeads, kD});
    const TailFit fit = layer.labels.tail(layer.q_heads);
    for (std::int64_t g = 0; g < layer.q_heads; ++g)
      for (std::int64_t r = 0; r < kRows; r += 37) {
        const std::int64_t h = g / kGroup;
        const auto asked = layer.asked(kQueries - 1, g, kRows - 1, r);
        const auto query = [&](std::int64_t c) { return asked[c]; };
        double exact = 0, size = 0, by_label = layer.labels.project(fit.beside, h, query);
        for (std::int64_t c = 0; c < kD; ++c) {
          exact += asked[c] * layer.key(h, r, c);
          size += std::abs(asked[c] * layer.key(h, r, c));
        }
        for (std::int64_t j = 0; j < kD; ++j)
          by_label += layer.labels.coordinate(h, r, j) * layer.labels.project(layer.labels.query_map(h), j, query);
        CHECK(std::abs(by_label - exact) <= 0.02 * size);
      }
  }
}

TEST_CASE("dual-chunk fit_labels: what labels lack is there without a tail, too") {
  Random random(314);
  Layer layer = layer_of(random, 256), other = layer;
  layer.fit(LabelFit::document);
  FitLabelsArgs args = other.args(LabelFit::document);
  args.weighs_tail = false;
  cpu::fit_labels(args);
  const TailFit with = layer.labels.tail(layer.q_heads), without = other.labels.tail(other.q_heads);
  CHECK(std::equal(with.beside, with.beside + kHeads * kD, without.beside));
  CHECK(std::all_of(without.weights, without.weights + layer.q_heads, [](float w) { return w == 1; }));
}
