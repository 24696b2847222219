// select: scores against the definition, and the list against a sort of the scores it computed.
#include <numeric>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/top_rows.h"
#include "tests/support/batch.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/isa.h"
#include "tests/support/labels.h"
#include "tests/support/reference.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

using Rows = std::vector<std::int32_t>;

struct Case {
  std::int64_t kv_heads, group, d, rows, sinks, window, budget;
  std::int64_t dims = 6, bits = 4;
  DType act = DType::f32;
  SelectBy by = SelectBy::labels;
  Combine combine = Combine::mean;
  float top_p = 1;
  std::int64_t q_heads = kv_heads * group, stride = round_up(rows, kAttendBlock);
  float scale = 1 / std::sqrt(static_cast<float>(d));

  std::int32_t slot = 0;

  Labels labels{kv_heads, d, rows, dims, bits};
  Tensor q{act, q_heads*d}, scratch{DType::f32, select_floats(1, q_heads, kv_heads, rows)};
  std::vector<float> mass{}, sums{};  // sums: of one session, empty: not kept
  bool sums_given = false;
  Rows out{}, count{};

  /// Codes of every kind; `kinds` few give many rows that tie.
  void fill(Random& random, std::int64_t kinds = 0) {
    labels.random_basis(random);
    q = random.normal(act, q_heads * d, 3);
    Tensor kv = random.normal(act, kv_heads * rows * 2 * d);
    if (kinds > 0)
      for (std::int64_t i = 0; i < kv.size; ++i)
        if (i / (2 * d) >= kinds) kv.set(i, kv.get(i % (2 * d) + (i / (2 * d) * 7 % kinds) * 2 * d));
    const std::int64_t row = 2 * d * size_of(act);
    cpu::label_rows({{kv.bytes.data(), rows * row, 0, rows}, labels.tile(), act, kv_heads, d});
    // What lies beyond the rows that have labels does not matter.
    for (std::int64_t h = 0; h < kv_heads; ++h) {
      auto at = labels.codes.begin() + ((h + 1) * labels.blocks - 1) * label_block_bytes(dims, bits);
      std::fill(at, at + label_block_bytes(dims, bits), std::byte{0xff});
    }
  }

  void run() {
    const std::int64_t most = std::min(budget, rows);
    out.assign(kv_heads * (most + 3), -7);
    count.assign(kv_heads, -7);
    const StepSpan span = this->span();
    cpu::select({q.data(),
                 q_heads * d,
                 {&span, 1, rows},
                 act,
                 q_heads,
                 kv_heads,
                 d,
                 scale,
                 by,
                 combine,
                 labels.tile(),
                 mass.data(),
                 rows,
                 0,
                 top_p,
                 scratch.floats(),
                 {out.data(), count.data(), most + 3},
                 sums.empty() ? nullptr : sums.data() - slot * q_heads,
                 q_heads,
                 sums_given});
    for (std::int64_t h = 0; h < kv_heads; ++h) REQUIRE((count[h] >= 0 && count[h] <= most));
  }
  StepSpan span() const {
    auto narrow = [](std::int64_t x) { return static_cast<std::int32_t>(x); };
    return {slot, narrow(rows), 0, narrow(budget), narrow(sinks), narrow(window)};
  }
  Rows list(std::int64_t h) const {
    const auto at = out.begin() + h * static_cast<std::int64_t>(out.size()) / kv_heads;
    return {at, at + count[h]};
  }
  /// The combined scores that select computed.
  std::vector<float> scores(std::int64_t h) {
    const auto* keys = reinterpret_cast<const std::uint32_t*>(scratch.floats() + (q_heads + h) * stride);
    std::vector<float> s;
    for (std::int64_t r = 0; r < rows - window; ++r) s.push_back(cpu::value_of_key(keys[r]));
    return s;
  }
};

/// The definition, over given scores; units as the operator's, so that sums agree to the last bit.
Rows brute_force(const Case& c, const std::vector<float>& scores) {
  const bool by_mass = c.by == SelectBy::mass;
  Rows order;
  double all = 0;
  for (std::size_t r = 0; r < scores.size(); ++r) {
    all += std::max(scores[r], 0.0f);
    if (static_cast<std::int64_t>(r) >= c.sinks && !(by_mass && scores[r] == -INFINITY))
      order.push_back(static_cast<std::int32_t>(r));
  }
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return scores[a] > scores[b]; });
  auto units = [&](std::int64_t r) { return std::floor(std::max(scores[r], 0.0f) / (by_mass ? all : 1) * 0x1p40); };
  double total = 0, have = 0;
  for (std::size_t r = 0; r < scores.size(); ++r) total += units(static_cast<std::int64_t>(r));
  for (std::int64_t r = 0; r < c.sinks; ++r) have += units(r);
  const double need = std::max(std::ceil(c.top_p * total), 1.0);
  Rows list(c.sinks);
  std::iota(list.begin(), list.end(), 0);
  for (std::size_t i = 0; i < order.size() && static_cast<std::int64_t>(i) < c.budget - c.sinks - c.window; ++i) {
    if (c.top_p < 1 && have >= need) break;
    have += units(order[i]);
    list.push_back(order[i]);
  }
  for (std::int64_t r = c.rows - c.window; r < c.rows; ++r) list.push_back(static_cast<std::int32_t>(r));
  std::sort(list.begin(), list.end());
  return list;
}

void check_lists(Case& c) {
  INFO("group " << c.group << " d " << c.d << " rows " << c.rows << " sinks " << c.sinks << " window " << c.window
                << " budget " << c.budget << " dims " << c.dims << " bits " << c.bits << " top_p " << c.top_p);
  c.run();
  for (std::int64_t h = 0; h < c.kv_heads; ++h) CHECK(c.list(h) == brute_force(c, c.scores(h)));
}

/// By the definition: softmax over all scored rows of each head, in double precision, then over the group.
Doubles definition(Case& c, std::int64_t h) {
  const std::int64_t n = c.rows - c.window;
  Doubles combined(n);
  for (std::int64_t g = h * c.group; g < (h + 1) * c.group; ++g) {
    Doubles s(n), a(c.dims);
    for (std::int64_t j = 0; j < c.dims; ++j)
      a[j] = c.labels.project(c.labels.query_map(h), j, [&](std::int64_t i) { return c.q.get(g * c.d + i); });
    for (std::int64_t r = 0; r < n; ++r)
      for (std::int64_t j = 0; j < c.dims; ++j) s[r] += c.scale * a[j] * c.labels.coordinate(h, r, j);
    const double top = *std::max_element(s.begin(), s.end());
    double total = 0;
    for (double& x : s) total += x = std::exp(x - top);
    for (std::int64_t r = 0; r < n; ++r) {
      const double p = s[r] / total;
      combined[r] = c.combine == Combine::max ? std::max(combined[r], p) : combined[r] + p / c.group;
    }
  }
  return combined;
}

}  // namespace

TEST_CASE("select with given sums is exact by the softmax that they make") {
  Random random(58);
  for (int repeat = 0; repeat < 30; ++repeat) {
    Case c{2, random.integer(2, 5), 16, random.integer(200, repeat % 3 == 0 ? 20000 : 900), 2, 8, 60};
    c.combine = repeat % 2 == 0 ? Combine::mean : Combine::max;
    c.slot = 0;
    c.fill(random);
    c.sums.assign(static_cast<std::size_t>(c.q_heads), NAN);
    c.run();
    std::vector<Rows> own;
    for (std::int64_t h = 0; h < 2; ++h) own.push_back(c.list(h));
    c.sums_given = true;
    for (const double shift : {0.0, 3.0, -20.0}) {  // the same for all heads: no row comes before another
      CAPTURE(repeat, shift, c.rows, c.group);
      for (float& sum : c.sums) {
        REQUIRE(std::isfinite(sum));
        sum += static_cast<float>(shift);
      }
      c.run();
      std::size_t common = 0;
      for (std::int64_t h = 0; h < 2; ++h) {
        const Rows list = c.list(h);
        CHECK(list == brute_force(c, c.scores(h)));
        Rows both;
        std::set_intersection(list.begin(), list.end(), own[h].begin(), own[h].end(), std::back_inserter(both));
        common += both.size();
      }
      CHECK(common >= 2 * 60 - 2);  // but for rounding
    }
    for (std::int64_t g = 0; g < c.q_heads; ++g) c.sums[g] = static_cast<float>(random.integer(-9, 9));
    c.run();
    for (std::int64_t h = 0; h < 2; ++h) CHECK(c.list(h) == brute_force(c, c.scores(h)));
  }
}

TEST_CASE("select: combined scores are the group's softmax over label scores") {
  Random random(70);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64, 80, 128})
      for (std::int64_t group : {1, 2, 3, 4, 7})
        for (std::int64_t bits : {4, 8, 16})
          for_each_isa([&] {
            const std::int64_t rows = random.integer(20, 300);
            Case c{2,
                   group,
                   d,
                   rows,
                   random.integer(0, 3),
                   random.integer(0, 5),
                   random.integer(9, 19),
                   random.integer(1, 8),
                   bits,
                   act,
                   SelectBy::labels,
                   random.integer(0, 1) ? Combine::mean : Combine::max,
                   0.9999f};
            c.fill(random);
            c.run();
            for (std::int64_t h = 0; h < 2; ++h) {
              const std::vector<float> got = c.scores(h);
              CHECK(nmse(Doubles(got.begin(), got.end()), definition(c, h)) < 1e-9);
            }
          });
}

TEST_CASE("select: the exact top of its scores, equal ones from the lowest row", "[numbers]") {
  Random random(71);
  for (int repeat = 0; repeat < 60; ++repeat)
    for (std::int64_t kinds : {0, 1, 3, 40})
      for_each_isa([&] {
        const std::int64_t rows = random.integer(2, random.integer(0, 9) ? 400 : 30000);
        const std::int64_t sinks = random.integer(0, std::min<std::int64_t>(4, rows / 2));
        const std::int64_t window = random.integer(0, std::min<std::int64_t>(70, rows / 2));
        Case c{random.integer(1, 3),
               random.integer(1, 4),
               16,
               rows,
               sinks,
               window,
               random.integer(sinks + window, rows - (rows > sinks + window))};
        c.bits = 4 << random.integer(0, 2);
        c.labels = {c.kv_heads, c.d, rows, c.dims, c.bits};
        c.combine = random.integer(0, 1) ? Combine::mean : Combine::max;
        const float shares[] = {1, 1, 0.99f, 0.9f, 0.5f, 0.01f, 0.0f};
        c.top_p = shares[random.integer(0, 6)];
        c.fill(random, kinds);
        if (c.budget < rows) check_lists(c);
      });
}

TEST_CASE("select: by mass, with rows given up, ties and zeros of both signs") {
  Random random(72);
  for (int repeat = 0; repeat < 200; ++repeat)
    for_each_isa([&] {
      const std::int64_t rows = random.integer(5, random.integer(0, 9) ? 300 : 20000);
      const std::int64_t sinks = random.integer(0, 2), window = random.integer(0, 2);
      Case c{2, 3, 8, rows, sinks, window, random.integer(sinks + window, rows - 1)};
      c.by = SelectBy::mass;
      c.top_p = random.integer(0, 2) ? 1 : 0.7f;
      for (std::int64_t i = 0; i < 2 * rows; ++i) {
        const std::int64_t kind = random.integer(0, 9);
        c.mass.push_back(kind == 0   ? -INFINITY
                         : kind == 1 ? 0.0f
                         : kind == 2 ? -0.0f
                         : kind < 6  ? static_cast<float>(random.integer(1, 3))
                                     : static_cast<float>(random.integer(0, 1 << 20)) * 1e-4f);
      }
      check_lists(c);
    });
}

TEST_CASE("select: a budget of all rows lists all, and by none the ends") {
  for (SelectBy by : {SelectBy::labels, SelectBy::mass, SelectBy::none}) {
    Case c{2, 2, 8, 50, 3, 5, 50};
    c.by = by;
    c.run();
    Rows all(50);
    std::iota(all.begin(), all.end(), 0);
    CHECK(c.list(0) == all);
    CHECK(c.list(1) == all);
  }
  Case c{1, 2, 8, 50, 3, 0, 7};
  c.by = SelectBy::none;
  c.run();
  CHECK(c.list(0) == Rows{0, 1, 2, 46, 47, 48, 49});
}

TEST_CASE("select: a batch gives each token the list that it gets alone", "[numbers]") {
  Random random(74);
  for (int repeat = 0; repeat < 40; ++repeat)
    for (SelectBy by : {SelectBy::labels, SelectBy::mass, SelectBy::none})
      for_each_isa([&] {
        const std::int64_t kv_heads = random.integer(1, 3), group = random.integer(1, 3), d = 16, dims = 6, bits = 4;
        const std::int64_t capacity = random.integer(2, random.integer(0, 3) ? 500 : 20000), q_heads = kv_heads * group;
        Batch batch(random, random.integer(1, 4), capacity);
        std::vector<Case> alone;
        std::vector<float> mass(batch.slots * kv_heads * capacity);
        Labels all{kv_heads * batch.slots, d, capacity, dims, bits};
        all.random_basis(random);
        const std::int64_t q_stride = q_heads * d + 8, stride = capacity + 3;
        Tensor q(DType::f32, batch.count * q_stride);
        Tensor scratch(DType::f32, select_floats(batch.count, q_heads, kv_heads, capacity));
        for (StepSpan& span : batch.spans) {
          const std::int64_t rows = random.integer(1, capacity),
                             sinks = random.integer(0, std::min<std::int64_t>(3, rows));
          const std::int64_t window = random.integer(0, std::min<std::int64_t>(9, rows - sinks));
          Case c{kv_heads, group, d, rows, sinks, window, random.integer(sinks + window, rows), dims, bits};
          c.by = by, c.slot = span.slot;
          c.fill(random);
          for (std::int64_t i = 0; i < kv_heads * rows; ++i)
            c.mass.push_back(static_cast<float>(random.integer(0, 50)));
          const std::int64_t place = std::ssize(alone), block = label_block_bytes(dims, bits);
          span = c.span();
          for (std::int64_t i = 0; i < q_heads * d; ++i) q.set(place * q_stride + i, c.q.get(i));
          for (std::int64_t h = 0; h < kv_heads; ++h) {
            const std::int64_t head = span.slot * kv_heads + h;
            std::copy_n(c.mass.begin() + h * rows, rows, mass.begin() + head * capacity);
            std::copy_n(c.labels.codes.begin() + h * c.labels.blocks * block, (c.labels.blocks - 1) * block,
                        all.codes.begin() + head * all.blocks * block);
            std::copy_n(c.labels.key_map(h), label_basis_floats(dims, d), all.key_map(head));
          }
          alone.push_back(std::move(c));
        }
        LabelTile labels = all.tile();
        labels.session_stride = kv_heads * labels.head_stride;
        labels.basis_stride = kv_heads * label_basis_floats(dims, d);
        Rows out(batch.count * kv_heads * stride, -7), count(batch.count * kv_heads, -7);
        cpu::select({q.data(),
                     q_stride,
                     batch.view(),
                     DType::f32,
                     q_heads,
                     kv_heads,
                     d,
                     alone[0].scale,
                     by,
                     Combine::mean,
                     labels,
                     mass.data(),
                     capacity,
                     kv_heads * capacity,
                     1,
                     scratch.floats(),
                     {out.data(), count.data(), stride}});
        for (std::int64_t t = 0; t < batch.count; ++t) {
          alone[t].slot = 0;
          alone[t].run();
          for (std::int64_t h = 0; h < kv_heads; ++h) {
            const std::int64_t n = t * kv_heads + h;
            CHECK(Rows(out.begin() + n * stride, out.begin() + n * stride + count[n]) == alone[t].list(h));
          }
        }
      });
}

TEST_CASE("select: queries and labels that are not finite still give a list") {
  Random random(73);
  for_each_isa([&] {
    for (double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL})
      for (std::int64_t group : {1, 3})
        for (std::int64_t rows : {300, 20000})
          for (float top_p : {1.0f, 0.5f}) {
            Case c{2, group, 16, rows, 2, 3, 40};
            c.top_p = top_p;
            c.fill(random);
            c.q.set(1, bad);
            c.run();
            for (std::int64_t h = 0; h < 2; ++h) {
              const Rows list = c.list(h);
              CHECK(std::is_sorted(list.begin(), list.end()));
              CHECK(std::adjacent_find(list.begin(), list.end()) == list.end());
              CHECK(list.front() == 0);
              CHECK(list.back() == rows - 1);
              CHECK((top_p < 1 || list.size() == 40));
            }
          }
  });
}
