// fit_labels: the basis against a singular value decomposition and against others, its ranges, and what it keeps.
#include <Eigen/SVD>
#include <cmath>
#include <cstring>

#include "kernels/cpu/label_basis.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd/simd.h"
#include "tests/support/catch.h"
#include "tests/support/fit_layer.h"
#include "tests/support/isa.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// E[(q.k - label(q).label(k))^2] over independent q and k.
double square_error(const Matrix& q, const Matrix& k, const Matrix& product) {
  const Matrix e = Matrix::Identity(q.rows(), q.rows()) - product;
  return (e.transpose() * q * e * k).trace();
}

}  // namespace

TEST_CASE("best_basis: the truncated singular value decomposition of the roots of the moments") {
  Random random(100);
  for (std::int64_t d : {8, 24, 64, 128})
    for (std::int64_t dims : {1, 4, 8}) {
      const Matrix q = random_moment(random, d) * 37, k = random_moment(random, d) * 0.01;
      const RowMajor q_rows = q, k_rows = k;
      FloatRows key_map(dims, d), query_map(dims, d);
      REQUIRE(cpu::best_basis({q_rows.data(), k_rows.data(), d}, dims, key_map.data(), query_map.data()));
      const Matrix product = (query_map.transpose() * key_map).cast<double>();
      const double got = square_error(q, k, product);

      const Eigen::JacobiSVD<Matrix> svd(root(q) * root(k), Eigen::ComputeThinU | Eigen::ComputeThinV);
      const double least = svd.singularValues().tail(d - dims).squaredNorm(), all = svd.singularValues().squaredNorm();
      CHECK(got <= least + 1e-6 * all);
      CHECK(got >= least - 1e-6 * all);
      for (int other = 0; other < 20; ++other) {
        // Any span of keys with the best query map for it is no better.
        const Matrix map = random_matrix(random, dims, d);
        const Matrix best = k * map.transpose() * (map * k * map.transpose()).inverse() * map;
        CHECK(square_error(q, k, best) >= got - 1e-6 * all);
      }
      // Labels of both sides have the same variance in each dimension.
      const Matrix key_side = (key_map.cast<double>() * k * key_map.cast<double>().transpose());
      const Matrix query_side = (query_map.cast<double>() * q * query_map.cast<double>().transpose());
      const double ratio = query_side(0, 0) / key_side(0, 0);
      for (std::int64_t j = 0; j < dims; ++j) CHECK(query_side(j, j) == Approx(ratio * key_side(j, j)).epsilon(1e-3));
    }
}

TEST_CASE("best_basis: moments that are degenerate give finite maps or none") {
  const std::int64_t d = 8;
  for (double value : {0.0, 1.0, std::nan(""), HUGE_VAL}) {
    std::vector<double> ones(d * d, value);
    std::vector<float> key_map(4 * d), query_map(4 * d);
    if (!cpu::best_basis({ones.data(), ones.data(), d}, 4, key_map.data(), query_map.data())) continue;
    for (float x : key_map) CHECK(std::isfinite(x));
    for (float x : query_map) CHECK(std::isfinite(x));
  }
}

TEST_CASE("add_sizes: sums and weighed sizes are added, of any number") {
  Random random(109);
  for_each_isa([&] {
    for (std::int64_t n : {0, 1, 7, 8, 15, 16, 17, 31, 64, 100, 256}) {
      const Tensor x = random.normal(DType::f32, n + 1);
      std::vector<float> values(n + 1), sums(n + 1, 1.0f), sizes(n + 1, 2.0f);
      for (std::int64_t i = 0; i <= n; ++i) values[i] = static_cast<float>(x.get(i));
      cpu::simd().add_sizes(values.data(), 0.75f, sums.data(), sizes.data(), n);
      for (std::int64_t i = 0; i < n; ++i) {
        CHECK(sums[i] == 1.0f + values[i]);
        CHECK(sizes[i] == Approx(2.0f + 0.75f * std::abs(values[i])));
      }
      CHECK((sums[n] == 1.0f && sizes[n] == 2.0f));
    }
  });
}

TEST_CASE("fit_labels: channels are those of the highest centred RMS of q times k") {
  Random random(101);
  for_each_isa([&] {
    Layer layer{DType::f32, 2, 2, 24, 300, 40, 5, 4};
    layer.fill(random);
    for (std::int64_t i = 0; i < layer.kv.size; ++i)
      if (i % 48 == 7 || i % 48 == 20) layer.kv.set(i, 40 * layer.kv.get(i));
    layer.fit(LabelFit::rms, 260, 1);
    CHECK(layer.finite());
    for (std::int64_t h = 0; h < 2; ++h) {
      std::vector<std::int64_t> chosen;
      for (std::int64_t j = 0; j < 5; ++j)
        for (std::int64_t i = 0; i < 24; ++i) {
          CHECK(layer.labels.key_map(h)[j * 24 + i] == layer.labels.query_map(h)[j * 24 + i]);
          if (layer.labels.key_map(h)[j * 24 + i] == 1) chosen.push_back(i);
        }
      CHECK(chosen.size() == 5);
      CHECK(std::count(chosen.begin(), chosen.begin() + 2, 7) == 1);
      CHECK(std::count(chosen.begin(), chosen.begin() + 2, 20) == 1);
    }
  });
}

TEST_CASE("fit_labels: ranges hold the document's keys to half a step, but for the cut ends", "[numbers]") {
  Random random(102);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 80, 128})
      for (std::int64_t bits : {4, 8, 16})
        for (LabelFit how : {LabelFit::document, LabelFit::moments, LabelFit::rms, LabelFit::given})
          for_each_isa([&] {
            Layer layer{act, 2, 3, d, 700, 60, std::min<std::int64_t>(d, 9), bits};
            layer.fill(random);
            if (how == LabelFit::given) layer.labels.random_basis(random);
            layer.fit(how);
            REQUIRE(layer.finite());
            if (bits == 16) return;
            cpu::label_rows({layer.tile(), layer.labels.tile(), act, 2, d});
            for (std::int64_t h = 0; h < 2; ++h)
              for (std::int64_t j = 0; j < layer.dims; ++j) {
                int outside = 0;
                for (std::int64_t r = 0; r < layer.rows; ++r) {
                  const double want = layer.labels.project(layer.labels.key_map(h), j, [&](std::int64_t i) {
                    return layer.kv.get((h * layer.rows + r) * 2 * d + i);
                  });
                  const double off = std::abs(layer.labels.coordinate(h, r, j) - want);
                  outside += off > 0.51 * layer.labels.step(h)[j];
                }
                CHECK(outside <= layer.rows / 20);
              }
          });
}

TEST_CASE("fit_labels: with all dimensions the labels' product is that of the vectors") {
  Random random(103);
  Layer layer{DType::f32, 1, 2, 8, 500, 100, 8, 16};
  layer.fill(random);
  layer.fit(LabelFit::moments);
  for (std::int64_t i = 0; i < 8; ++i)
    for (std::int64_t k = 0; k < 8; ++k) {
      double sum = 0;
      for (std::int64_t j = 0; j < 8; ++j)
        sum += static_cast<double>(layer.labels.query_map(0)[j * 8 + i]) * layer.labels.key_map(0)[j * 8 + k];
      CHECK(sum == Approx(i == k).margin(1e-3));
    }
}

TEST_CASE("fit_labels: queries are turned to where decoding will be") {
  // One query direction, of which the first pair turns fast: where it points after the turn decides the channel.
  const std::int64_t d = 8;
  Random random(104);
  Layer layer{DType::f32, 1, 1, d, 64, 4, 1, 16};
  layer.fill(random);
  for (std::int64_t i = 0; i < layer.kv.size; ++i) layer.kv.set(i, random.integer(-1000, 1000) / 1000.0);
  layer.inv_freq = {1.0f, 0, 0, 0};
  for (std::int64_t quarter = 0; quarter < 4; ++quarter) {
    // At its own position each points along channel 0; moved by a quarter of a turn, along channel 4.
    for (std::int64_t t = 0; t < 4; ++t)
      for (std::int64_t i = 0; i < d; ++i) layer.q.set(t * d + i, 0);
    const std::int64_t target = 1000 + quarter;
    for (std::int64_t t = 0; t < 4; ++t) {
      // So turned at its position that at the target it points along channel (quarter odd ? 4 : 0).
      const double angle = (quarter % 2) * 1.5707963267948966 - static_cast<double>(target - (60 + t));
      layer.q.set(t * d, std::cos(angle));
      layer.q.set(t * d + 4, std::sin(angle));
    }
    layer.fit(LabelFit::rms, target, 1);
    CHECK(layer.labels.key_map(0)[(quarter % 2) * 4] == 1);
  }
}

TEST_CASE("fit_labels: a packed sample gives what all rows give", "[numbers]") {
  Random random(107);
  for (LabelFit how : {LabelFit::document, LabelFit::moments, LabelFit::q, LabelFit::k, LabelFit::qk, LabelFit::abs,
                       LabelFit::rms, LabelFit::pairs})
    for (std::int64_t rows : {60, 4096, 9000}) {
      Layer layer{DType::bf16, 2, 2, 24, rows, 50, 5, 4};
      layer.fill(random);
      layer.fit(how);
      const std::vector<float> want = layer.labels.basis;
      std::fill(layer.labels.basis.begin(), layer.labels.basis.end(), std::nanf(""));
      const std::int64_t n = fit_keys(rows), row = 2 * 24 * 2, from = rows * row, to = (n + 50) * row;
      std::vector<std::byte> packed(static_cast<std::size_t>(2 * to), std::byte{0xff});
      for (std::int64_t h = 0; h < 2; ++h)
        for (std::int64_t i = 0; i < n + 50; ++i) {
          const std::int64_t r = i < n ? fit_key(i, rows) : rows - 50 + i - n;
          std::memcpy(packed.data() + h * to + i * row, layer.kv.bytes.data() + h * from + r * row, row);
        }
      FitLabelsArgs args = layer.args(how);
      args.kv = {packed.data(), to, 0, n};
      cpu::fit_labels(args, {packed.data() + n * row, to, 0, 50}, rows);
      CHECK(layer.labels.basis == want);
    }
}

TEST_CASE("fit_labels: few keys, equal keys and keys that are not finite leave the labels finite") {
  Random random(105);
  for (LabelFit how : {LabelFit::document, LabelFit::moments, LabelFit::rms})
    for (std::int64_t rows : {1, 2, 5})
      for (int kind = 0; kind < 4; ++kind) {
        Layer layer{DType::f32, 1, 2, 16, rows, 1, 4, 4};
        layer.fill(random);
        for (std::int64_t i = 0; i < layer.kv.size; ++i) {
          if (kind == 1) layer.kv.set(i, 0);
          if (kind == 2) layer.kv.set(i, 3e38);
        }
        if (kind == 3) layer.kv.set(3, NAN);
        layer.fit(how);
        INFO("fit " << static_cast<int>(how) << " rows " << rows << " kind " << kind);
        CHECK(layer.finite());
      }
}

TEST_CASE("fit_labels: the document's fit keeps at least the mass that its candidates keep") {
  Random random(106);
  for (std::int64_t group : {1, 3}) {
    Layer layer{DType::f32, 2, group, 64, 3000, 64, 6, 4};
    layer.fill(random);
    double kept[3];
    int at = 0;
    for (LabelFit how : {LabelFit::document, LabelFit::moments, LabelFit::rms}) {
      layer.fit(how, layer.rows - layer.queries, layer.queries);
      cpu::label_rows({layer.tile(), layer.labels.tile(), DType::f32, 2, 64});
      double sum = 0;
      for (std::int64_t t = 0; t < layer.queries; ++t) {
        std::vector<float> scratch(select_floats(1, layer.q_heads, 2, 3000));
        std::vector<std::int32_t> rows(2 * 300), count(2);
        SelectionQuality quality[2];
        const RowList list{rows.data(), count.data(), 300};
        const void* q = layer.q.at(t * layer.q_heads * 64);
        const StepSpan span{.slot = 0, .rows = 3000, .ring_first = 3000, .budget = 300, .sinks = 0, .window = 0};
        const StepBatch batch{&span, 1, 3000};
        const std::int64_t q_stride = layer.q_heads * 64;
        cpu::select({q, q_stride, batch, DType::f32, layer.q_heads, 2, 64, 0.125f, SelectBy::labels, Combine::mean,
                     layer.labels.tile(), nullptr, 0, 0, 1.0f, scratch.data(), list});
        cpu::judge({q, q_stride, batch, layer.tile(), list, quality, 2, DType::f32, layer.q_heads, 2, 64, 0.125f});
        for (const auto& one : quality) sum += one.mass;
      }
      kept[at++] = sum / static_cast<double>(2 * layer.queries);
    }
    INFO("document " << kept[0] << " moments " << kept[1] << " channels " << kept[2]);
    // The turn of the queries differs a little from none; the choice is the same.
    CHECK(kept[0] >= std::max(kept[1], kept[2]) - 0.02);
  }
}
