// judge, add_mass, add_list_mass, round_rows, moments: against their definitions in double precision.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ops.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/isa.h"
#include "tests/support/random.h"
#include "tests/support/reference.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

struct Case {
  DType act;
  std::int64_t kv_heads, group, d, rows, tokens = 1;
  std::int64_t q_heads = kv_heads * group, q_stride = q_heads * d + 8;
  float scale = 1 / std::sqrt(static_cast<float>(d));
  Tensor q{act, tokens*q_stride}, kv{act, kv_heads*(rows + 2) * 2 * d};

  void fill(Random& random) {
    const Tensor some = random.normal(act, tokens * q_stride, 2), cache = random.normal(act, kv.size);
    for (std::int64_t i = 0; i < q.size; ++i)
      if (i % q_stride < q_heads * d) q.set(i, some.get(i));
    for (std::int64_t i = 0; i < kv.size; ++i)
      if (i / (2 * d) % (rows + 2) < rows) kv.set(i, cache.get(i));
  }
  KvTile tile() { return {kv.bytes.data(), (rows + 2) * 2 * d * size_of(act), 0, rows}; }
  /// The probabilities of a token's query head over the first `visible` rows.
  Doubles probabilities(std::int64_t t, std::int64_t head, std::int64_t visible) const {
    Doubles p(visible);
    for (std::int64_t r = 0; r < visible; ++r) {
      for (std::int64_t i = 0; i < d; ++i)
        p[r] += q.get(t * q_stride + head * d + i) * kv.get((head / group * (rows + 2) + r) * 2 * d + i);
      p[r] *= scale;
    }
    const double top = *std::max_element(p.begin(), p.end());
    double total = 0;
    for (double& x : p) total += x = std::exp(x - top);
    for (double& x : p) x /= total;
    return p;
  }
};

}  // namespace

TEST_CASE("judge: mass, best and recall of a list") {
  Random random(110);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64, 128})
      for (std::int64_t group : {1, 2, 3, 5})
        for_each_isa([&] {
          Case c{act, 2, group, d, random.integer(2, 400)};
          c.fill(random);
          const std::int64_t stride = c.rows + 1;
          std::vector<std::int32_t> rows(2 * stride, -1), count(2);
          for (std::int64_t h = 0; h < 2; ++h)
            for (std::int64_t r = 0; r < c.rows; ++r)
              if (random.integer(0, 3) == 0) rows[h * stride + count[h]++] = static_cast<std::int32_t>(r);
          SelectionQuality got[2];
          cpu::judge({c.q.data(), c.tile(), {rows.data(), count.data(), stride}, got, act, c.q_heads, 2, d, c.scale});
          for (std::int64_t h = 0; h < 2; ++h) {
            Doubles mean(c.rows);
            for (std::int64_t g = 0; g < group; ++g) {
              const Doubles p = c.probabilities(0, h * group + g, c.rows);
              for (std::int64_t r = 0; r < c.rows; ++r) mean[r] += p[r] / static_cast<double>(group);
            }
            std::vector<std::int32_t> order(c.rows),
                listed(rows.begin() + h * stride, rows.begin() + h * stride + count[h]);
            std::iota(order.begin(), order.end(), 0);
            std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return mean[a] > mean[b]; });
            double mass = 0, best = 0, same = 0;
            for (std::int32_t i = 0; i < count[h]; ++i) {
              mass += mean[listed[i]], best += mean[order[i]];
              same += static_cast<double>(std::count(listed.begin(), listed.end(), order[i]));
            }
            CHECK(got[h].mass == Approx(mass).margin(1e-5));
            CHECK(got[h].best == Approx(best).margin(1e-5));
            CHECK(got[h].recall == Approx(count[h] ? same / count[h] : 1.0).margin(1e-6));
          }
        });
}

TEST_CASE("add_mass: the columns' sums of a chunk's causal attention") {
  Random random(111);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 80, 128})
      for (std::int64_t group : {1, 3})
        for (std::int64_t tokens : {1, 20, 270})
          for (bool bf16_gemm : {true, false})
            for_each_isa([&] {
              const std::int64_t before = random.integer(0, 500);
              Case c{act, 2, group, d, before + tokens, tokens};
              c.fill(random);
              cpu::set_bf16_gemm(bf16_gemm);
              Tensor o(DType::f32, tokens * c.q_heads * d), m(DType::f32, tokens * c.q_heads), l = m;
              const AttnState state{o.floats(), m.floats(), l.floats()};
              cpu::attend(
                  {c.q.data(), c.q_stride, c.tile(), state, true, act, tokens, c.q_heads, 2, d, before, c.scale});
              const std::int64_t stride = c.rows + 3;
              std::vector<float> mass(2 * stride, 0.5f);
              cpu::add_mass({c.q.data(), c.q_stride, c.tile(), state, mass.data(), stride, act, tokens, c.q_heads, 2, d,
                             before, c.scale});
              cpu::set_bf16_gemm(true);
              for (std::int64_t h = 0; h < 2; ++h) {
                Doubles want(c.rows, 0.5);
                for (std::int64_t t = 0; t < tokens; ++t)
                  for (std::int64_t g = 0; g < group; ++g) {
                    const Doubles p = c.probabilities(t, h * group + g, before + t + 1);
                    for (std::size_t r = 0; r < p.size(); ++r) want[r] += p[r];
                  }
                const Doubles got(mass.begin() + h * stride, mass.begin() + h * stride + c.rows);
                CHECK(nmse(got, want) < 1e-9);
                CHECK(mass[h * stride + c.rows] == 0.5f);
              }
            });
}

TEST_CASE("add_list_mass: listed rows gain their probabilities, the others are given up") {
  Random random(112);
  for (std::int64_t group : {1, 2, 3})
    for_each_isa([&] {
      Case c{DType::f32, 2, group, 24, random.integer(1, 200)};
      c.fill(random);
      const std::int64_t stride = c.rows + 4;
      std::vector<std::int32_t> rows(2 * stride, -1), count(2);
      for (std::int64_t h = 0; h < 2; ++h)
        for (std::int64_t r = 0; r < c.rows; ++r)
          if (random.integer(0, 2) > 0) rows[h * stride + count[h]++] = static_cast<std::int32_t>(r);
      Tensor o(DType::f32, c.q_heads * 24), m(DType::f32, c.q_heads), l = m, scores(DType::f32, c.q_heads * stride);
      const RowList list{rows.data(), count.data(), stride};
      const AttnState state{o.floats(), m.floats(), l.floats()};
      AttendListArgs args{.q = c.q.data(),
                          .rows = list,
                          .scores = scores.floats(),
                          .state = state,
                          .act = DType::f32,
                          .q_heads = c.q_heads,
                          .kv_heads = 2,
                          .head_dim = 24,
                          .scale = c.scale};
      args.regions.prefix = c.tile();
      cpu::finish_list({args, false});
      std::vector<float> mass(2 * stride, 2.0f);
      cpu::add_list_mass({list, scores.floats(), state, mass.data(), stride, c.q_heads, 2, 24, c.rows});
      for (std::int64_t h = 0; h < 2; ++h) {
        Doubles want(c.rows, -INFINITY);
        for (std::int32_t i = 0; i < count[h]; ++i) want[rows[h * stride + i]] = 2;
        for (std::int64_t g = h * group; g < (h + 1) * group; ++g) {
          Doubles p = c.probabilities(0, g, c.rows);
          double total = 0;
          for (std::int32_t i = 0; i < count[h]; ++i) total += p[rows[h * stride + i]];
          for (std::int32_t i = 0; i < count[h]; ++i) want[rows[h * stride + i]] += p[rows[h * stride + i]] / total;
        }
        for (std::int64_t r = 0; r < c.rows; ++r)
          if (std::isinf(want[r])) CHECK(mass[h * stride + r] == -INFINITY);
          else CHECK(mass[h * stride + r] == Approx(want[r]).epsilon(1e-5));
        CHECK(mass[h * stride + c.rows] == 2.0f);
      }
    });
}

TEST_CASE("round_rows: to the nearest of 2^bits values of each group, and twice is once") {
  Random random(113);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64, 80, 128})
      for (std::int64_t bits : {2, 3, 4, 8})
        for_each_isa([&] {
          Case c{act, 2, 1, d, random.integer(1, 90)};
          c.fill(random);
          for (std::int64_t i = 0; i < 8; ++i) c.kv.set(i, i < 4 ? 1.5 : c.kv.get(i));
          const Tensor before = c.kv;
          cpu::round_rows({c.tile(), act, 2, d, bits});
          for (std::int64_t h = 0; h < 2; ++h)
            for (std::int64_t part = 0; part < (c.rows + 2) * 2; ++part)
              for (std::int64_t g = 0; g < d; g += 64) {
                const std::int64_t first = (h * (c.rows + 2) * 2 + part) * d + g, n = std::min<std::int64_t>(64, d - g);
                double low = INFINITY, high = -INFINITY;
                for (std::int64_t i = first; i < first + n; ++i)
                  low = std::min(low, before.get(i)), high = std::max(high, before.get(i));
                const double step = (high - low) / double((1 << bits) - 1), slack = act == DType::bf16 ? 0.02 : 1e-5;
                for (std::int64_t i = first; i < first + n; ++i) {
                  if (part >= c.rows * 2) {  // not of the tile
                    REQUIRE(std::isnan(c.kv.get(i)));
                    continue;
                  }
                  REQUIRE(std::abs(c.kv.get(i) - before.get(i)) <= step / 2 + slack);
                  const double code = (c.kv.get(i) - low) / step;
                  REQUIRE(std::abs(code - std::round(code)) * step <= slack);
                }
              }
          const Tensor once = c.kv;
          cpu::round_rows({c.tile(), act, 2, d, bits});
          if (act == DType::f32)
            CHECK(nmse(Doubles{c.kv.get(0), c.kv.get(d)}, Doubles{once.get(0), once.get(d)}) < 1e-10);
        });
}

TEST_CASE("moments: sums over tokens, and in two calls as in one") {
  Random random(114);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64})
      for (std::int64_t group : {1, 3})
        for_each_isa([&] {
          const std::int64_t kv_heads = 2, q_heads = group * kv_heads, width = (q_heads + 2 * kv_heads) * d;
          const std::int64_t tokens = random.integer(2, 700), size = moment_doubles(d);
          Tensor qkv = random.normal(act, tokens * width);
          Doubles got(kv_heads * size, 0), want(kv_heads * size, 0);
          const std::int64_t first = tokens / 3;
          cpu::moments({qkv.data(), got.data(), act, first, q_heads, kv_heads, d});
          cpu::moments({qkv.at(first * width), got.data(), act, tokens - first, q_heads, kv_heads, d});
          for (std::int64_t h = 0; h < kv_heads; ++h) {
            double *kk = &want[h * size], *qq = kk + d * d, *tail = qq + d * d;
            for (std::int64_t t = 0; t < tokens; ++t) {
              auto k = [&](std::int64_t i) { return qkv.get(t * width + (q_heads + h) * d + i); };
              for (std::int64_t i = 0; i < d; ++i) {
                for (std::int64_t j = 0; j < d; ++j) kk[i * d + j] += k(i) * k(j);
                tail[i] += k(i), tail[d + i] += std::abs(k(i));
              }
              for (std::int64_t g = h * group; g < (h + 1) * group; ++g) {
                auto q = [&](std::int64_t i) { return qkv.get(t * width + g * d + i); };
                for (std::int64_t i = 0; i < d; ++i) {
                  for (std::int64_t j = 0; j < d; ++j) qq[i * d + j] += q(i) * q(j);
                  tail[2 * d + i] += std::abs(q(i)), tail[3 * d + i] += std::abs(q(i) * k(i));
                }
              }
            }
            tail[4 * d] = static_cast<double>(tokens);
          }
          CHECK(nmse(got, want) < 1e-12);
        });
}
