// The types of KV rows: what codes stand for, how far a value is from its own, and what is not an ordinary number.
#include "kernels/row_format.h"

#include <algorithm>
#include <functional>

#include "kernels/cpu/row_codes.h"
#include "tests/support/catch.h"
#include "tests/support/coded_rows.h"
#include "tests/support/isa.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

double largest_code(RowType type) { return type == RowType::int8 ? 127 : type == RowType::fp8 ? 448 : 15; }

/// How far a value may be from what is kept of it, its group's range being [low, high].
double allowed(RowType type, double x, double low, double high) {
  const double top = std::max(std::abs(low), std::abs(high));
  constexpr double kHalf = 1.0 / 256;  // what a bf16 may be off by, and more
  if (type == RowType::int8) return top / 127 * (0.5 + 127.0 * kHalf / 2);
  if (type == RowType::fp8) return std::max(std::abs(x) / 16, top / 448 / 512) + top * kHalf;
  return (high - low) / 15 * (0.5 + 15 * kHalf / 2) + std::abs(low) * kHalf;
}

}  // namespace

TEST_CASE("row_format: bytes a row") {
  CHECK(row_bytes(RowType::act, 128, DType::bf16) == 512);
  CHECK(row_bytes(RowType::act, 64, DType::f32) == 512);
  for (RowType type : {RowType::int8, RowType::fp8}) {
    CHECK(row_bytes(type, 64, DType::bf16) == 144);
    CHECK(row_bytes(type, 128, DType::bf16) == 272);
  }
  CHECK(row_bytes(RowType::int4, 64, DType::bf16) == 80);
  CHECK(row_bytes(RowType::int4, 128, DType::bf16) == 160);
  for (RowType type : kCodedTypes)
    for (std::int64_t d = 32; d <= 256; d += 32) {
      CHECK(row_bytes(type, d, DType::bf16) % 16 == 0);
      CHECK(row_bytes(type, d, DType::bf16) == row_bytes(type, d, DType::f32));
    }
}

TEST_CASE("row_format: e4m3, all 256 codes, what lies between two, and what is beyond the last") {
  std::vector<double> values;
  for (unsigned code = 0; code < 256; ++code) {
    const double x = e4m3(code);
    if (std::isnan(x)) continue;
    CAPTURE(code, x);
    CHECK(rows::e4m3_value(static_cast<std::uint8_t>(code)) == x);
    CHECK(rows::e4m3_of(static_cast<float>(x)) == code);
    if (code < 128) values.push_back(x);
  }
  REQUIRE(values.size() == 127);
  CHECK(values.back() == 448);
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    const auto below = static_cast<float>(values[i]), above = static_cast<float>(values[i + 1]);
    const float middle = (below + above) / 2;
    CAPTURE(below, above);
    CHECK(rows::e4m3_of(std::nextafter(middle, 0.0f)) == i);
    CHECK(rows::e4m3_of(middle) == (i % 2 == 0 ? i : i + 1));  // ties to the even code
    CHECK(rows::e4m3_of(std::nextafter(middle, 1e3f)) == i + 1);
    CHECK(rows::e4m3_of(-middle) == (0x80 | (i % 2 == 0 ? i : i + 1)));
  }
}

TEST_CASE("row_format: a value is near what is kept of it", "[numbers]") {
  Random random(200);
  for (DType act : {DType::bf16, DType::f32})
    for (RowType type : kCodedTypes)
      for (std::int64_t d : {32, 64, 96, 128, 256})
        for (double deviation : {1e-20, 1.0, 1e20}) {
          Tensor x = random.normal(act, 20 * 2 * d, deviation);
          for (std::int64_t g = 0; g < x.size / 32; g += 3)  // values that all have the same sign, some far from zero
            for (std::int64_t i = 32 * g; i < 32 * (g + 1); ++i) x.set(i, x.get(i) + deviation * double(g % 50));
          x.set(5, 30 * deviation);  // one that stands out
          const Tensor kept = decode_rows(type, encode_rows(type, x, d), d);
          for (std::int64_t i = 0; i < x.size; ++i) {
            double low = INFINITY, high = -INFINITY;
            for (std::int64_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j)
              low = std::min(low, x.get(j)), high = std::max(high, x.get(j));
            CAPTURE(int(type), d, i, x.get(i), kept.get(i), low, high);
            REQUIRE(std::abs(kept.get(i) - x.get(i)) <= allowed(type, x.get(i), low, high));
          }
        }
}

TEST_CASE("row_format: zeros, equal values, tiny ones, and what is not finite") {
  const std::int64_t d = 64;
  for (DType act : {DType::bf16, DType::f32})
    for (RowType type : kCodedTypes) {
      CAPTURE(name_of(act), int(type));
      Tensor x(act, 2 * d, 1);
      auto group = [&](std::int64_t g, const std::function<double(std::int64_t)>& value) {
        for (std::int64_t i = 0; i < 32; ++i) x.set(32 * g + i, value(i));
      };
      auto kept = [&] { return decode_rows(type, encode_rows(type, x, d), d); };
      group(0, [](auto) { return 0.0; });
      group(1, [](auto) { return -0.25; });
      group(2, [](auto i) { return i % 2 ? 1e-40 : -1e-42; });
      group(3, [](auto i) { return i == 3 ? 1e38 : -1e38; });
      const Tensor plain = kept();
      for (std::int64_t i = 0; i < 32; ++i) {
        CHECK(plain.get(i) == 0);
        CHECK(std::abs(plain.get(32 + i) + 0.25) <= 0.25 / 256);
        CHECK(plain.get(64 + i) == 0);
        CHECK(std::abs(plain.get(96 + i) - x.get(96 + i)) <= 1e38 / 100);
      }
      for (double bad : {double(NAN), double(INFINITY), double(-INFINITY)})
        for (std::int64_t at : {0, 17, 31}) {
          x.set(32 + at, bad);
          const Tensor got = kept();
          for (std::int64_t i = 0; i < 2 * d; ++i) {
            CAPTURE(bad, at, i);
            if (i / 32 == 1) CHECK(std::isnan(got.get(i)));
            else CHECK(got.get(i) == plain.get(i));
          }
          x.set(32 + at, -0.25);
        }
    }
}

TEST_CASE("row_format: what is kept of what was kept is near it, and whole rows are written") {
  Random random(201);
  for (RowType type : kCodedTypes)
    for (std::int64_t d : {32, 64, 96, 128}) {
      const Tensor x = random.normal(DType::f32, 9 * 2 * d);
      const auto coded = encode_rows(type, x, d);
      CHECK(coded == encode_rows(type, x, d));
      const std::int64_t bytes = row_bytes(type, d, x.type),
                         used = code_bytes(type, d) + 2 * d / 32 * scale_bytes(type);
      for (std::int64_t r = 0; r < 9; ++r)
        for (std::int64_t b = used; b < bytes; ++b) CHECK(coded[r * bytes + b] == std::byte{0});
      const Tensor once = decode_rows(type, coded, d), twice = decode_rows(type, encode_rows(type, once, d), d);
      for (std::int64_t i = 0; i < x.size; ++i)
        CHECK(std::abs(twice.get(i) - once.get(i)) <= std::abs(once.get(i)) / 8 + 5.0 / largest_code(type));
    }
}

TEST_CASE("row_format: the vector loops read the values that the description gives") {
  Random random(202);
  for (RowType type : kCodedTypes)
    for (std::int64_t d : {32, 64, 96, 128, 160, 256})
      for_each_isa([&] {
        const Tensor x = random.normal(DType::f32, 2 * d, 3);
        const std::vector<std::byte> coded = encode_rows(type, x, d);
        const Tensor want = decode_rows(type, coded, d);
        const std::byte* row = coded.data();
        CAPTURE(int(type), d);
        for (std::int64_t i = 0; i < d; ++i) {  // a query of one 1: the score is the key's value
          std::vector<float> q(d, 0), o(d, 0);
          q[i] = 1;
          float score[64] = {}, m = -INFINITY, l = 0;
          cpu::ListedRowsArgs a{.rows = &row,
                                .q = q.data(),
                                .scores = score,
                                .score_stride = 64,
                                .o = o.data(),
                                .m = &m,
                                .l = &l,
                                .count = 1,
                                .ahead = 0,
                                .row_bytes = row_bytes(type, d, DType::f32),
                                .heads = 1,
                                .head_dim = d};
          const cpu::RowLoops& loops = cpu::row_loops(type, DType::f32);
          loops.score_listed(a);
          REQUIRE(score[0] == want.get(i));
          loops.add_listed(a);
          REQUIRE(l == 1);
          for (std::int64_t j = 0; j < d; ++j) REQUIRE(o[j] == want.get(d + j));
        }
      });
}
