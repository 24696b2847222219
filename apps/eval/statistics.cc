#include "apps/eval/statistics.h"

#include <algorithm>
#include <cmath>

#include "apps/eval/random.h"
#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

constexpr int kResamples = 2000;

struct Sums {
  double sum = 0, weight = 0;
  void add(const Item& item) {
    sum += item.sum;
    weight += item.weight;
  }
  double score(bool perplexity) const { return perplexity ? std::exp(sum / weight) : sum / weight; }
};

Interval middle(std::vector<double> values) {
  std::ranges::sort(values);
  const auto tail = values.size() / 40;
  return {values[tail], values[values.size() - 1 - tail]};
}

double ratio_of(double score, double dense) { return dense == 0 ? std::nan("") : score / dense; }

}  // namespace

double score_of(const std::vector<Item>& items, bool perplexity) {
  Sums sums;
  for (const Item& item : items) sums.add(item);
  return sums.score(perplexity);
}

Comparison compare(const std::vector<Item>& dense, const std::vector<Item>& items, bool perplexity, std::int64_t seed) {
  check(dense.size() == items.size() && !items.empty(), "items are paired");
  const double score = score_of(items, perplexity), base = score_of(dense, perplexity);
  Comparison result{score, score - base, ratio_of(score, base), {}, {}};
  Random random(seed, "bootstrap");
  std::vector<double> differences, ratios;
  for (int i = 0; i < kResamples; ++i) {
    Sums a, b;
    for (std::size_t n = 0; n < items.size(); ++n) {
      const auto pick = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(items.size())));
      a.add(items[pick]);
      b.add(dense[pick]);
    }
    const double x = a.score(perplexity), y = b.score(perplexity);
    differences.push_back(x - y);
    if (y != 0) ratios.push_back(x / y);
  }
  result.difference_95 = middle(std::move(differences));
  result.ratio_95 = ratios.empty() ? Interval{std::nan(""), std::nan("")} : middle(std::move(ratios));
  return result;
}

}  // namespace longhaul::eval
