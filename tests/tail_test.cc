// What stands for the rows that are not attended: the tail that select estimates, the mean value, and attention with
// both, against their definitions.
#include <numeric>

#include "kernels/cpu/ops.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/isa.h"
#include "tests/support/labels.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

struct Case {
  std::int64_t kv_heads, group, d, rows, bits;
  std::int32_t sinks, window, budget;
  std::int64_t dims = 6, q_heads = kv_heads * group;
  DType act = DType::f32;
  float scale = 1 / std::sqrt(static_cast<float>(d));
  Labels labels{kv_heads, d, rows, dims, bits};
  Tensor q{act, q_heads*d}, kv{act, kv_heads*rows * 2 * d};
  Tensor scratch{DType::f32, select_floats(1, q_heads, kv_heads, rows)};
  std::vector<std::int32_t> list = std::vector<std::int32_t>(kv_heads * rows),
                            count = std::vector<std::int32_t>(kv_heads);
  std::vector<float> tail = std::vector<float>(q_heads, std::nanf("")), mean = std::vector<float>(kv_heads * d);
  StepSpan span{0, static_cast<std::int32_t>(rows), static_cast<std::int32_t>(rows), budget, sinks, window};

  void fill(Random& random) {
    labels.random_basis(random);
    labels.random_tail(random, q_heads);
    q = random.normal(act, q.size, 2);
    kv = random.normal(act, kv.size);
    cpu::label_rows({tile(), labels.tile(), act, kv_heads, d});
    cpu::mean_values({tile(), mean.data(), act, kv_heads, d});
  }
  KvTile tile() { return {kv.bytes.data(), rows * 2 * d * size_of(act), 0, rows}; }
  RowList out() { return {list.data(), count.data(), rows, tail.data()}; }

  void select(float top_p = 1) {
    cpu::select({q.data(),
                 q_heads * d,
                 {&span, 1, rows},
                 act,
                 q_heads,
                 kv_heads,
                 d,
                 scale,
                 SelectBy::labels,
                 Combine::mean,
                 labels.tile(),
                 nullptr,
                 0,
                 0,
                 top_p,
                 scratch.floats(),
                 out()});
  }
  /// [q_heads, d]
  std::vector<double> attend(bool with_mean) {
    Tensor o(DType::f32, q_heads * d), m(DType::f32, q_heads), l(DType::f32, q_heads),
        scores(DType::f32, q_heads * rows);
    Tensor result(act, q_heads * d);
    const AttendListArgs list{.q = q.data(),
                              .q_stride = q_heads * d,
                              .batch = {&span, 1, rows},
                              .rows = out(),
                              .regions = {.prefix = tile()},
                              .scores = scores.floats(),
                              .state = {o.floats(), m.floats(), l.floats()},
                              .act = act,
                              .q_heads = q_heads,
                              .kv_heads = kv_heads,
                              .head_dim = d,
                              .scale = scale};
    cpu::finish_list({list, false, result.data(), with_mean ? mean.data() : nullptr, 0});
    std::vector<double> values;
    for (std::int64_t i = 0; i < result.size; ++i) values.push_back(result.get(i));
    return values;
  }

  double at(std::int64_t h, std::int64_t row, std::int64_t i) const { return kv.get((h * rows + row) * 2 * d + i); }
  double score(std::int64_t g, std::int64_t row) const {
    double sum = 0;
    for (std::int64_t i = 0; i < d; ++i) sum += q.get(g * d + i) * at(g / group, row, i);
    return sum * scale;
  }
  auto query(std::int64_t g) const {
    return [this, g](auto i) { return q.get(g * d + i); };
  }
  /// What the labels say of a row's score.
  double label_score(std::int64_t g, std::int64_t row) {
    const std::int64_t h = g / group;
    double sum = -labels.zeros(h, query(g));
    for (std::int64_t j = 0; j < dims; ++j)
      sum += labels.coordinate(h, row, j) * labels.project(labels.query_map(h), j, query(g));
    return (sum + labels.project(labels.tail(q_heads).beside, h, query(g))) * scale;
  }
  std::vector<bool> listed(std::int64_t h) const {
    std::vector<bool> in(rows);
    for (std::int64_t i = 0; i < count[h]; ++i) in[list[h * rows + i]] = true;
    return in;
  }
  /// The tail by its definition.
  double wanted_tail(std::int64_t g) {
    double rest = 0;
    const std::vector<bool> listed = this->listed(g / group);
    for (std::int64_t r = 0; r < rows - window; ++r)
      if (!listed[r]) rest += std::exp(label_score(g, r));
    return std::log(rest * labels.tail(q_heads).weights[g]);
  }
  /// Attention with the rest at the mean value, for a tail.
  std::vector<double> wanted(const std::vector<float>& tail) {
    std::vector<double> out(q_heads * d);
    for (std::int64_t g = 0; g < q_heads; ++g) {
      const std::int64_t h = g / group;
      double total = 0;
      for (std::int64_t i = 0; i < count[h]; ++i) {
        const std::int64_t r = list[h * rows + i];
        const double weight = std::exp(score(g, r));
        total += weight;
        for (std::int64_t c = 0; c < d; ++c) out[g * d + c] += weight * at(h, r, d + c);
      }
      const double rest = std::exp(static_cast<double>(tail[g]));
      for (std::int64_t c = 0; c < d; ++c) out[g * d + c] = (out[g * d + c] + rest * mean[h * d + c]) / (total + rest);
    }
    return out;
  }
};

void for_each_case(Random& random, const std::function<void(Case&)>& body) {
  for (std::int64_t group : {1, 3, 4})
    for (std::int64_t bits : {4, 16})
      for_each_isa([&] {
        Case c{random.integer(1, 3), group, random.integer(0, 1) ? 16 : 24, random.integer(40, 300), bits, 3, 9, 30};
        INFO("group " << group << " bits " << bits << " rows " << c.rows);
        c.fill(random);
        body(c);
      });
}

}  // namespace

TEST_CASE("tail: what the labels say of the rows left out") {
  Random random(91);
  for_each_case(random, [](Case& c) {
    for (float top_p : {1.0f, 0.6f}) {
      c.select(top_p);
      for (std::int64_t g = 0; g < c.q_heads; ++g) CHECK(std::abs(c.tail[g] - c.wanted_tail(g)) < 1e-4);
    }
  });
}

TEST_CASE("tail: attention with the mean value for the rest") {
  Random random(92);
  for_each_case(random, [](Case& c) {
    c.select();
    CHECK(nmse(c.attend(true), c.wanted(c.tail)) < 1e-11);
    CHECK(nmse(c.attend(false), c.wanted(std::vector<float>(c.q_heads, kNoTail))) < 1e-11);
    CHECK(nmse(c.attend(true), c.attend(false)) > 1e-6);
  });
}

TEST_CASE("tail: a list of all rows has none, and the same bits with a mean value as without") {
  Random random(93);
  for_each_case(random, [](Case& c) {
    c.span.budget = static_cast<std::int32_t>(c.rows);
    c.select();
    CHECK(std::ranges::all_of(c.tail, [](float t) { return t == kNoTail; }));
    std::ranges::fill(c.mean, std::nanf(""));
    CHECK(c.attend(true) == c.attend(false));
  });
}

TEST_CASE("mean_values: of every KV head") {
  Random random(94);
  for (std::int64_t rows : {1, 2, 65, 1000}) {
    Case c{2, 1, 24, rows, 4, 0, 1, 1};
    c.fill(random);
    for (std::int64_t h = 0; h < c.kv_heads; ++h)
      for (std::int64_t i = 0; i < c.d; ++i) {
        double sum = 0;
        for (std::int64_t r = 0; r < rows; ++r) sum += c.at(h, r, c.d + i);
        CHECK(std::abs(c.mean[h * c.d + i] - sum / static_cast<double>(rows)) < 1e-6);
      }
  }
}
