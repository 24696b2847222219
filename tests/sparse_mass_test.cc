// judge, add_mass, add_list_mass, moments: against their definitions in double precision.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ops.h"
#include "tests/support/batch.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/isa.h"
#include "tests/support/random.h"
#include "tests/support/reference.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// One session with `tokens` consecutive tokens, or a batch with a token of each.
struct Case {
  DType act;
  std::int64_t kv_heads, group, d, rows, tokens = 1;
  std::int64_t q_heads = kv_heads * group, q_stride = q_heads * d + 8, head_stride = (rows + 2) * 2 * d;
  float scale = 1 / std::sqrt(static_cast<float>(d));
  Tensor q{act, tokens*q_stride}, kv{act, kv_heads*head_stride};
  Batch batch{};

  /// Makes it a batch of so many sessions, of up to `rows` rows.
  void sessions(Random& random, std::int64_t count) {
    batch = Batch(random, count, rows + 2);
    for (StepSpan& span : batch.spans) span.rows = static_cast<std::int32_t>(random.integer(1, rows));
    batch.spans[0].rows = static_cast<std::int32_t>(rows);
    tokens = count;
    q = Tensor(act, tokens * q_stride);
    kv = Tensor(act, batch.slots * kv_heads * head_stride);
  }
  std::int64_t slot(std::int64_t t) const { return batch.count > 0 ? batch.spans[t].slot : 0; }

  void fill(Random& random) {
    const Tensor some = random.normal(act, tokens * q_stride, 2), cache = random.normal(act, kv.size);
    for (std::int64_t i = 0; i < q.size; ++i)
      if (i % q_stride < q_heads * d) q.set(i, some.get(i));
    for (std::int64_t i = 0; i < kv.size; ++i)
      if (i / (2 * d) % (rows + 2) < rows) kv.set(i, cache.get(i));
  }
  KvTile tile() {
    const std::int64_t stride = head_stride * size_of(act);
    return {kv.bytes.data(), stride, 0, rows, kv_heads * stride};
  }
  /// The probabilities of a token's query head over the first `visible` rows.
  Doubles probabilities(std::int64_t t, std::int64_t head, std::int64_t visible) const {
    Doubles p(visible);
    for (std::int64_t r = 0; r < visible; ++r) {
      for (std::int64_t i = 0; i < d; ++i)
        p[r] += q.get(t * q_stride + head * d + i) *
                kv.get(((slot(t) * kv_heads + head / group) * (rows + 2) + r) * 2 * d + i);
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

TEST_CASE("judge: mass, best and recall of each list of a batch") {
  Random random(110);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64, 128})
      for (std::int64_t group : {1, 2, 3, 5})
        for_each_isa([&] {
          Case c{act, 2, group, d, random.integer(2, 400)};
          c.sessions(random, 2);
          c.fill(random);
          const std::int64_t stride = c.rows + 1, out_stride = 5;
          std::vector<std::int32_t> rows(4 * stride, -1), count(4);
          for (std::int64_t n = 0; n < 4; ++n)
            for (std::int64_t r = 0; r < c.batch.spans[n / 2].rows; ++r)
              if (random.integer(0, 3) == 0) rows[n * stride + count[n]++] = static_cast<std::int32_t>(r);
          SelectionQuality got[2 * out_stride];
          cpu::judge({c.q.data(),
                      c.q_stride,
                      c.batch.view(),
                      c.tile(),
                      {rows.data(), count.data(), stride},
                      got,
                      out_stride,
                      act,
                      c.q_heads,
                      2,
                      d,
                      c.scale});
          for (std::int64_t n = 0; n < 4; ++n) {
            const std::int64_t visible = c.batch.spans[n / 2].rows;
            Doubles mean(visible);
            for (std::int64_t g = 0; g < group; ++g) {
              const Doubles p = c.probabilities(n / 2, n % 2 * group + g, visible);
              for (std::int64_t r = 0; r < visible; ++r) mean[r] += p[r] / static_cast<double>(group);
            }
            std::vector<std::int32_t> order(visible),
                listed(rows.begin() + n * stride, rows.begin() + n * stride + count[n]);
            std::iota(order.begin(), order.end(), 0);
            std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return mean[a] > mean[b]; });
            double mass = 0, best = 0, same = 0;
            for (std::int32_t i = 0; i < count[n]; ++i) {
              mass += mean[listed[i]], best += mean[order[i]];
              same += static_cast<double>(std::count(listed.begin(), listed.end(), order[i]));
            }
            const SelectionQuality& quality = got[n / 2 * out_stride + n % 2];
            CHECK(quality.mass == Approx(mass).margin(1e-5));
            CHECK(quality.best == Approx(best).margin(1e-5));
            CHECK(quality.recall == Approx(count[n] ? same / count[n] : 1.0).margin(1e-6));
          }
        });
}

TEST_CASE("add_mass: the columns' sums of a chunk's causal attention", "[numbers]") {
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
              Tensor out(act, tokens * c.q_heads * d);
              cpu::attend(
                  {c.q.data(), c.q_stride, c.tile(), state, out.data(), act, tokens, c.q_heads, 2, d, before, c.scale});
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
      c.sessions(random, 2);
      c.fill(random);
      const std::int64_t stride = c.rows + 4, heads = 2 * c.q_heads;
      std::vector<std::int32_t> rows(4 * stride, -1), count(4);
      for (std::int64_t n = 0; n < 4; ++n)
        for (std::int64_t r = 0; r < c.batch.spans[n / 2].rows; ++r)
          if (random.integer(0, 2) > 0) rows[n * stride + count[n]++] = static_cast<std::int32_t>(r);
      Tensor o(DType::f32, heads * 24), m(DType::f32, heads), l = m, out = o, scores(DType::f32, heads * stride);
      const RowList list{rows.data(), count.data(), stride};
      const AttnState state{o.floats(), m.floats(), l.floats()};
      AttendListArgs args{};
      args.q = c.q.data(), args.q_stride = c.q_stride;
      args.batch = c.batch.view();
      args.rows = list;
      args.regions.prefix = c.tile();
      args.scores = scores.floats(), args.keep_scores = true;
      args.state = state;
      args.act = DType::f32;
      args.q_heads = c.q_heads, args.kv_heads = 2, args.head_dim = 24;
      args.scale = c.scale;
      cpu::finish_list({args, false, out.data()});
      std::vector<float> mass(c.batch.slots * 2 * stride, 2.0f);
      cpu::add_list_mass(
          {c.batch.view(), list, scores.floats(), state, mass.data(), stride, 2 * stride, c.q_heads, 2, 24});
      for (std::int64_t n = 0; n < 4; ++n) {
        const StepSpan& span = c.batch.spans[n / 2];
        const std::int32_t* listed = &rows[n * stride];
        const float* got = &mass[(span.slot * 2 + n % 2) * stride];
        Doubles want(span.rows, -INFINITY);
        for (std::int32_t i = 0; i < count[n]; ++i) want[listed[i]] = 2;
        for (std::int64_t g = n % 2 * group; g < (n % 2 + 1) * group; ++g) {
          Doubles p = c.probabilities(n / 2, g, span.rows);
          double total = 0;
          for (std::int32_t i = 0; i < count[n]; ++i) total += p[listed[i]];
          for (std::int32_t i = 0; i < count[n]; ++i) want[listed[i]] += p[listed[i]] / total;
        }
        for (std::int64_t r = 0; r < span.rows; ++r)
          if (std::isinf(want[r])) CHECK(got[r] == -INFINITY);
          else CHECK(got[r] == Approx(want[r]).epsilon(1e-5));
        for (std::int64_t r = span.rows; r < stride; ++r) CHECK(got[r] == 2.0f);
      }
      for (std::int64_t slot = 0; slot < c.batch.slots; ++slot)  // who does not decode keeps his
        if (slot != c.batch.spans[0].slot && slot != c.batch.spans[1].slot)
          CHECK(std::all_of(&mass[slot * 2 * stride], &mass[slot * 2 * stride] + 2 * stride,
                            [](float x) { return x == 2.0f; }));
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
