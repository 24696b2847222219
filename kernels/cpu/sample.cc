// sample: greedy, or temperature, top_k, top_p and a draw that (seed, step) fixes; a penalty before all of it.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"
#include "kernels/sampling.h"

namespace longhaul::cpu {
namespace {

struct Candidate {
  std::uint64_t rank;
  std::uint64_t weight = 0;
};

bool before(const Candidate& a, const Candidate& b) { return a.rank > b.rank; }

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
    const Candidate c{sampling::rank(row[i], static_cast<std::int64_t>(i))};
    if (full && !before(c, kept[k - 1])) continue;
    kept.push_back(c);
    if (kept.size() == 2 * k) cut(), full = true;
  }
  if (kept.size() > k) cut();
  return kept;
}

std::uint64_t mass(std::span<const Candidate> some) {
  std::uint64_t sum = 0;
  for (const Candidate& c : some) sum += c.weight;
  return sum;
}

/// Keeps the smallest set of best candidates that holds `need` of the mass, by halving instead of sorting.
void keep_mass(std::vector<Candidate>& all, std::uint64_t need) {
  auto low = all.begin(), high = all.end();
  while (high - low > 1) {
    auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, before);
    const std::uint64_t left = mass({low, middle});
    if (left >= need) high = middle;
    else need -= left, low = middle;
  }
  all.erase(low + 1, all.end());
}

void penalise(std::span<float> row, std::uint32_t* seen, const SampleParams& p) {
  seen[p.newest / 32] |= 1u << p.newest % 32;
  for (std::int64_t w = 0; w < seen_words(std::ssize(row)); ++w)
    for (std::uint32_t word = seen[w]; word != 0; word &= word - 1) {
      float& logit = row[static_cast<std::size_t>(w * 32 + std::countr_zero(word))];
      logit = sampling::penalised(logit, p.repetition_penalty);
    }
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
  std::uint64_t cut = 0;  // ranks from here are kept
  if (k < row.size() || p.top_p < 1) {
    std::vector<Candidate> left = best(row, k);
    if (p.top_p < 1) {
      for (Candidate& c : left) c.weight = sampling::weight(row[sampling::id_of(c.rank)], highest, p.temperature);
      keep_mass(left, sampling::mass_needed(p.top_p, mass(left)));
    }
    cut = std::max_element(left.begin(), left.end(), before)->rank;
  }
  auto weight = [&](std::size_t i) -> std::uint64_t {
    if (sampling::rank(row[i], static_cast<std::int64_t>(i)) < cut) return 0;
    return sampling::weight(row[i], highest, p.temperature);
  };
  std::uint64_t total = 0, sum = 0;
  for (std::size_t i = 0; i < row.size(); ++i) total += weight(i);
  const std::uint64_t draw = sampling::draw(p.seed, p.step, total);
  std::size_t id = 0;
  while ((sum += weight(id)) <= draw) ++id;
  return static_cast<std::int32_t>(id);
}

}  // namespace

void sample(const SampleArgs& a) {
  parallel_for(a.tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const SampleParams& p = a.params[t];
      const std::span<float> row(a.logits + t * a.vocab, static_cast<std::size_t>(a.vocab));
      if (p.repetition_penalty != 1) penalise(row, a.seen + p.slot * seen_words(a.vocab), p);
      a.out[t] = sample_row(row, p);
    }
  });
}

}  // namespace longhaul::cpu
