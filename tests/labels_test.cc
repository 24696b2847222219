// label_rows: codes against the definition, in any order of arrival, whatever lies beyond.
#include "tests/support/labels.h"
#include "kernels/cpu/ops.h"
#include "tests/support/catch.h"
#include "tests/support/isa.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// Labels rows [first, first + n) of a tensor of KV rows.
void label(Labels& labels, Tensor& kv, std::int64_t first, std::int64_t n) {
  const std::int64_t row = 2 * labels.d * size_of(kv.type);
  const KvTile tile{kv.bytes.data() + first * row, labels.rows * row, first, n};
  cpu::label_rows({tile, labels.tile(), kv.type, labels.kv_heads, labels.d});
}

}  // namespace

TEST_CASE("label_rows: a code stands for the key's coordinate to half a step") {
  Random random(60);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64, 80, 128})
      for (std::int64_t bits : {4, 8, 16})
        for_each_isa([&] {
          Labels labels{2, d, random.integer(1, 200), random.integer(1, std::min<std::int64_t>(d, 37)), bits};
          labels.random_basis(random);
          Tensor kv = random.normal(act, 2 * labels.rows * 2 * d);
          label(labels, kv, 0, labels.rows);
          double worst = 0;
          for (std::int64_t h = 0; h < 2; ++h)
            for (std::int64_t r = 0; r < labels.rows; ++r)
              for (std::int64_t j = 0; j < labels.dims; ++j) {
                double want = labels.project(labels.key_map(h), j,
                                             [&](std::int64_t i) { return kv.get((h * labels.rows + r) * 2 * d + i); });
                double unit = std::abs(want) / 256;  // of bf16
                if (bits < 16) {
                  const double zero = labels.zero(h)[j], step = labels.step(h)[j];
                  want = std::clamp(want, zero, zero + step * ((1 << bits) - 1));
                  unit = step / 2;
                }
                worst = std::max(worst, std::abs(labels.coordinate(h, r, j) - want) / (unit + 1e-5));
              }
          INFO("d " << d << " bits " << bits << " dims " << labels.dims << " rows " << labels.rows);
          CHECK(worst <= 1.001);
        });
}

TEST_CASE("label_rows: rows in any pieces give the same codes, and no others change") {
  Random random(61);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t bits : {4, 8, 16})
      for_each_isa([&] {
        const std::int64_t rows = 400;
        Labels whole{2, 24, rows, 5, bits};
        whole.random_basis(random);
        Labels pieces = whole, past = whole;
        Tensor kv = random.normal(act, 2 * rows * 48);
        label(whole, kv, 0, rows);
        for (std::int64_t at = 0; at < rows;) {
          const std::int64_t n = std::min(random.integer(0, random.integer(0, 3) ? 3 : 150), rows - at);
          label(pieces, kv, at, n);
          at += n;
        }
        CHECK(pieces.codes == whole.codes);
        label(past, kv, 100, 31);
        for (std::int64_t r = 0; r < rows; ++r)
          for (std::int64_t j = 0; j < 5; ++j) {
            const bool written = r >= 100 && r < 131;
            const double stale = bits == 16 ? NAN : past.zero(1)[j] + past.step(1)[j] * double((1 << bits) - 1);
            const double got = past.coordinate(1, r, j), want = written ? whole.coordinate(1, r, j) : stale;
            if (std::isnan(want)) REQUIRE(std::isnan(got));
            else REQUIRE(got == want);
          }
      });
}

TEST_CASE("label_rows: keys that are not finite, and a step of 0") {
  for_each_isa([&] {
    for (std::int64_t bits : {4, 8}) {
      Labels labels{1, 8, 4, 2, bits};
      std::fill_n(labels.key_map(0), 16, 0.0f);
      labels.key_map(0)[0] = labels.key_map(0)[8] = 1;
      labels.zero(0)[0] = labels.zero(0)[1] = -1;
      labels.step(0)[0] = 0.1f, labels.step(0)[1] = 0;
      Tensor kv(DType::f32, 4 * 16, 0);
      kv.set(0, NAN), kv.set(16, INFINITY), kv.set(32, -INFINITY), kv.set(48, -1);
      label(labels, kv, 0, 4);
      const double top = -1 + labels.step(0)[0] * double((1 << bits) - 1);
      CHECK(labels.coordinate(0, 0, 0) == -1);
      CHECK(labels.coordinate(0, 1, 0) == top);
      CHECK(labels.coordinate(0, 2, 0) == -1);
      CHECK(labels.coordinate(0, 3, 0) == -1);
      for (std::int64_t r = 0; r < 4; ++r) CHECK(labels.coordinate(0, r, 1) == -1);
    }
  });
}
