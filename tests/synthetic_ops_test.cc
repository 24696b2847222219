#include "kernels/synthetic_ops.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "kernels/cpu/ops.h"
#include "tests/support/catch.h"
#include "tests/support/random.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

using List = std::vector<std::int32_t>;

/// replay() for spans of these rows; each list must be ascending and hold sinks and window once.
std::vector<List> replayed(ReplayArgs a, const std::vector<StepSpan>& spans) {
  std::int64_t stride = 0;
  for (const StepSpan& s : spans) stride = std::max<std::int64_t>(stride, std::min(s.budget, s.rows));
  const auto lists = static_cast<std::int64_t>(spans.size()) * a.kv_heads;
  std::vector<std::int32_t> rows(static_cast<std::size_t>(lists * stride), -7), count(static_cast<std::size_t>(lists));
  a.batch = {spans.data(), static_cast<std::int64_t>(spans.size()), 1 << 20};
  a.out = {rows.data(), count.data(), stride};
  cpu::replay(a);
  std::vector<List> out;
  for (std::int64_t i = 0; i < lists; ++i) {
    const StepSpan& span = spans[static_cast<std::size_t>(i / a.kv_heads)];
    List list(rows.begin() + i * stride, rows.begin() + i * stride + count[static_cast<std::size_t>(i)]);
    CHECK(std::ranges::adjacent_find(list, std::greater_equal{}) == list.end());
    CHECK(list.back() == span.rows - 1);
    for (std::int32_t r = 0; r < span.sinks; ++r) CHECK(list[static_cast<std::size_t>(r)] == r);
    out.push_back(std::move(list));
  }
  return out;
}

StepSpan span_of(std::int32_t rows, std::int32_t budget) {
  return {.slot = 0, .rows = rows, .ring_first = rows, .budget = budget, .sinks = 4, .window = 32};
}

/// A recording of 3 steps, 2 layers of 2 heads: 60 rows each, drawn from [0, 1000).
struct Recording {
  std::vector<std::int32_t> rows = std::vector<std::int32_t>(3 * 4 * 64), count = std::vector<std::int32_t>(12, 60);
  Recording() {
    std::mt19937 random(3);
    for (int list = 0; list < 12; ++list) {
      std::set<std::int32_t> drawn;
      while (drawn.size() < 60) drawn.insert(static_cast<std::int32_t>(random() % 1000));
      std::ranges::copy(drawn, rows.begin() + list * 64);
    }
  }
  List list(std::int64_t step, std::int64_t l) const {
    const auto from = rows.begin() + (step * 4 + l) * 64;
    return {from, from + 60};
  }
  ReplayArgs args(std::int64_t first, std::int64_t kv_heads) const {
    return {.rows = rows.data(),
            .count = count.data(),
            .steps = 3,
            .lists = 4,
            .stride = 64,
            .first_list = first,
            .heads = 2,
            .kv_heads = kv_heads};
  }
};

std::size_t common(const List& a, const List& b) {
  List both;
  std::ranges::set_intersection(a, b, std::back_inserter(both));
  return both.size();
}

}  // namespace

TEST_CASE("a replayed step is the recorded one between sinks and window") {
  const Recording recording;
  for (std::int32_t rows : {2000, 2001, 2002, 2003, 2004, 2005, 400}) {
    const auto lists = replayed(recording.args(2, 2), {span_of(rows, 90)});
    const std::int64_t at[] = {0, 1, 2, 2, 1, 0};
    for (std::int64_t h = 0; h < 2; ++h) {
      List want;
      for (std::int32_t r : recording.list(at[rows % 6], 2 + h))
        if (r >= 4 && r < rows - 32 && want.size() < 90 - 36) want.push_back(r);
      const List& got = lists[static_cast<std::size_t>(h)];
      CHECK(List(got.begin() + 4, got.end() - 32) == want);
    }
  }
}

TEST_CASE("without a recording no row comes again before all have been listed") {
  for (const auto& [rows, budget] : {std::pair{4096, 256}, {1000, 300}, {65536, 2048}, {100, 60}}) {
    const std::int64_t every = (rows - 36) / (budget - 36);
    std::vector<List> steps;
    for (std::int32_t step = 0; step < every; ++step) {
      // The session's length stands still here: the step is told by `shift`.
      ReplayArgs args{.shift = step, .kv_heads = 1};
      steps.push_back(replayed(args, {span_of(rows, budget)})[0]);
      CHECK(std::ssize(steps.back()) == budget);
    }
    for (std::size_t i = 0; i < steps.size(); ++i)
      for (std::size_t j = 0; j < i; ++j) CHECK(common(steps[i], steps[j]) == 36);
  }
  const auto all = replayed({.kv_heads = 2}, {span_of(50, 64), span_of(64, 64)});
  CHECK(all[1].size() == 50);
  CHECK(all[3].size() == 64);
}

TEST_CASE("recall: that share of the rows between is right") {
  const std::int32_t rows = 262144, budget = 16384;
  const auto truth = replayed({.kv_heads = 8}, {span_of(rows, budget)});
  for (float recall : {0.0f, 0.5f, 0.88f, 1.0f}) {
    const auto hint = replayed({.kv_heads = 8, .recall = recall}, {span_of(rows, budget)});
    for (std::size_t h = 0; h < 8; ++h) {
      CHECK(hint[h].size() == truth[h].size());
      const double share = (static_cast<double>(common(hint[h], truth[h])) - 36) / (budget - 36);
      CHECK(share == Approx(recall).margin(0.015));
    }
  }
}

TEST_CASE("checksum: parts add up to the whole, and every place of every word counts") {
  Random random(8);
  const std::int64_t heads = 2, rows = 300, row = 64;
  Tensor kv = random.normal(DType::bf16, heads * rows * row / 2);
  auto sum_of = [&](std::int64_t first, std::int64_t count, std::uint64_t sum = 0) {
    cpu::checksum({{kv.at(first * row / 2), rows * row, first, count}, heads, row, &sum});
    return sum;
  };
  const std::uint64_t whole = sum_of(0, rows);
  CHECK(sum_of(100, 200, sum_of(0, 100)) == whole);
  auto swapped = [&](std::int64_t a, std::int64_t b, std::int64_t bytes) {  // and swapped back
    std::swap_ranges(kv.bytes.begin() + a, kv.bytes.begin() + a + bytes, kv.bytes.begin() + b);
    const std::uint64_t sum = sum_of(0, rows);
    std::swap_ranges(kv.bytes.begin() + a, kv.bytes.begin() + a + bytes, kv.bytes.begin() + b);
    return sum;
  };
  CHECK(swapped(0, row, row) != whole);             // two rows
  CHECK(swapped(8, 16, 8) != whole);                // two words of a row
  CHECK(swapped(0, rows * row, row) != whole);      // the same row of two heads
  CHECK(swapped(0, row * 100, row * 50) != whole);  // two blocks
  CHECK(sum_of(0, rows) == whole);
}

TEST_CASE("random_fill: uniform, reproducible, every element written") {
  for (DType type : {DType::bf16, DType::f32}) {
    const std::int64_t n = 100003;
    Tensor a(type, n), b(type, n), c(type, n);
    cpu::random_fill({a.data(), type, n, 5, 2, 3});
    cpu::random_fill({b.data(), type, n, 5, 2, 3});
    cpu::random_fill({c.data(), type, n, 6, 2, 3});
    CHECK(a.bytes == b.bytes);
    const auto x = a.values(), y = c.values();
    double sum = 0, squares = 0, product = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      CHECK((x[i] >= -1 && x[i] <= 5));
      sum += x[i] - 2, squares += (x[i] - 2) * (x[i] - 2), product += (x[i] - 2) * (y[i] - 2);
    }
    CHECK(sum / n == Approx(0).margin(0.03));
    CHECK(squares / n == Approx(3).epsilon(0.02));  // (2 * 3)^2 / 12
    CHECK(product / n == Approx(0).margin(0.03));
  }
}
