// sample: greedy, or temperature, top_k, top_p and a draw that (seed, step) fixes.
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"

namespace longhaul::cpu {
namespace {

struct Candidate {
  float logit;
  std::int32_t id;
  float weight = 0;  // exp((logit - highest) / temperature)
};

/// A total order, so that every cut is one set: higher logit first, then lower id.
bool before(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

/// splitmix64's finalizer (Steele, Lea and Flood, OOPSLA 2014).
std::uint64_t mix(std::uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// In [0, 1): 53 bits of a counter-based generator.
double uniform(std::uint64_t seed, std::uint64_t step) {
  return static_cast<double>(mix(mix(seed) ^ mix(~step)) >> 11) * 0x1p-53;
}

/// The k best in any order, by one pass: 2k are kept and cut to k whenever they are full.
std::vector<Candidate> best(std::span<const float> row, std::size_t k) {
  std::vector<Candidate> kept;
  kept.reserve(2 * k);
  auto cut = [&] {
    std::nth_element(kept.begin(), kept.begin() + (k - 1), kept.end(), before);
    kept.resize(k);
  };
  bool full = false;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const Candidate c{row[i], static_cast<std::int32_t>(i)};
    if (full && !before(c, kept[k - 1])) continue;
    kept.push_back(c);
    if (kept.size() == 2 * k) cut(), full = true;
  }
  if (kept.size() > k) cut();
  return kept;
}

/// Keeps the smallest set of best candidates that holds `share` of the mass, by halving instead of sorting.
void keep_mass(std::vector<Candidate>& all, double share) {
  auto mass = [](auto from, auto to) {
    double sum = 0;
    for (; from != to; ++from) sum += from->weight;
    return sum;
  };
  double need = share * mass(all.begin(), all.end());
  auto low = all.begin(), high = all.end();
  while (high - low > 1) {
    auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, before);
    const double left = mass(low, middle);
    if (left >= need) high = middle;
    else need -= left, low = middle;
  }
  all.erase(low + 1, all.end());
}

std::int32_t sample_row(std::span<const float> row, const SampleParams& p) {
  float highest = -std::numeric_limits<float>::infinity();
  std::int32_t first = -1;
  bool finite = false;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (std::isnan(row[i])) return -1;
    finite |= std::isfinite(row[i]);
    if (row[i] > highest) highest = row[i], first = static_cast<std::int32_t>(i);
  }
  if (!finite) return -1;
  if (!(p.temperature > 0)) return first;

  const std::size_t k = p.top_k > 0 ? std::min<std::size_t>(p.top_k, row.size()) : row.size();
  std::vector<Candidate> left = best(row, k);
  for (Candidate& c : left) c.weight = c.logit == highest ? 1.0f : std::exp((c.logit - highest) / p.temperature);
  if (p.top_p < 1) keep_mass(left, p.top_p);
  // By id, so that the draw means the same token whatever order the selection left behind.
  std::sort(left.begin(), left.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  double total = 0;
  for (const Candidate& c : left) total += c.weight;
  double draw = uniform(p.seed, p.step) * total;
  for (const Candidate& c : left)
    if ((draw -= c.weight) < 0) return c.id;
  return std::max_element(left.begin(), left.end(), [](auto& a, auto& b) { return before(b, a); })->id;
}

}  // namespace

void sample(const SampleArgs& a) {
  parallel_for(a.tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      a.out[t] = sample_row({a.logits + t * a.vocab, static_cast<std::size_t>(a.vocab)}, a.params[t]);
  });
}

}  // namespace longhaul::cpu
