// sample on the CPU: ties, refusals, the cuts, and the distribution of many draws.
#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/cpu/ops.h"
#include "tests/support/catch.h"
#include "tests/support/random.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

std::int32_t one(std::vector<float> logits, const SampleParams& params) {
  std::int32_t out = -7;
  cpu::sample({logits.data(), &params, &out, 1, static_cast<std::int64_t>(logits.size())});
  return out;
}

/// How often each id comes in `draws` steps.
std::map<std::int32_t, int> histogram(const std::vector<float>& logits, SampleParams params, int draws) {
  std::map<std::int32_t, int> counts;
  for (int i = 0; i < draws; ++i, ++params.step) ++counts[one(logits, params)];
  return counts;
}

/// Chi-square over `p` (summing to one) below a bound that a right sampler passes all but once in a million seeds.
void check_distribution(const std::map<std::int32_t, int>& counts, const std::map<std::int32_t, double>& p, int draws) {
  double chi = 0;
  for (auto [id, share] : p) {
    auto it = counts.find(id);
    const double seen = it == counts.end() ? 0 : it->second;
    chi += (seen - share * draws) * (seen - share * draws) / (share * draws);
  }
  for (auto [id, n] : counts) CHECK(p.contains(id));
  const double freedom = p.size() - 1.0;
  CHECK(chi < freedom + 5 * std::sqrt(2 * freedom) + 12);
}

}  // namespace

TEST_CASE("sample: greedy takes the lowest id among equals") {
  CHECK(one({1, 5, 5, 2}, {}) == 1);
  CHECK(one({-kInf, -3, -kInf, -3}, {}) == 1);
  CHECK(one({0, kInf, kInf}, {}) == 1);
}

TEST_CASE("sample: rows that hold NaN or nothing finite give -1") {
  for (float temperature : {0.0f, 1.0f}) {
    const SampleParams p{.temperature = temperature};
    CHECK(one({1, kNaN, 2}, p) == -1);
    CHECK(one({kNaN, kNaN}, p) == -1);
    CHECK(one({-kInf, -kInf}, p) == -1);
    CHECK(one({kInf, -kInf}, p) == -1);
    CHECK(one({-kInf, 3, -kInf}, p) == 1);
  }
}

TEST_CASE("sample: seed and step fix the draw and rows do not disturb one another") {
  Random random(30);
  const std::int64_t vocab = 1000, rows = 9;
  Tensor logits = random.normal(DType::f32, rows * vocab, 2);
  std::vector<SampleParams> params(rows);
  for (std::int64_t i = 0; i < rows; ++i)
    params[i] = {.temperature = i % 4 * 0.5f,
                 .top_p = i % 2 ? 0.8f : 1.0f,
                 .top_k = static_cast<int>(i % 3 * 20),
                 .seed = static_cast<std::uint64_t>(i),
                 .step = 7};
  std::vector<std::int32_t> out(rows, -7);
  cpu::sample({logits.floats(), params.data(), out.data(), rows, vocab});
  for (std::int64_t i = 0; i < rows; ++i) {
    std::vector<float> row(logits.floats() + i * vocab, logits.floats() + (i + 1) * vocab);
    CHECK(one(row, params[i]) == out[i]);
  }
}

TEST_CASE("sample: a penalty is for what is seen, once, as in float64, before all else") {
  Random random(32);
  const std::int64_t rows = 60, slots = 70, vocab = GENERATE(1, 31, 64, 1000), words = seen_words(vocab);
  Tensor logits = random.normal(DType::f32, rows * vocab, 3);
  std::vector<std::uint32_t> seen(static_cast<std::size_t>(slots * words));
  for (std::int64_t slot = 0; slot < slots; ++slot)  // none, few or most
    for (std::int64_t id = 0; id < vocab; ++id)
      if (random.integer(0, 9) < slot % 3 * 4) seen[static_cast<std::size_t>(slot * words + id / 32)] |= 1u << id % 32;
  std::vector<SampleParams> params;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::vector<float> odd{kInf, -kInf, 3e38f, -3e38f, 1e-44f, -1e-44f, -0.0f, 2};
    for (std::int64_t i = 0; r % 2 == 1 && i < 20; ++i)
      logits.set(r * vocab + random.integer(0, vocab - 1), odd[static_cast<std::size_t>(random.integer(0, 7))]);
    if (r % 10 == 9) logits.set(r * vocab + random.integer(0, vocab - 1), kNaN);
    params.push_back({.temperature = r % 4 * 0.5f,
                      .top_p = r % 3 == 1 ? 0.8f : 1.0f,
                      .top_k = static_cast<std::int32_t>(r % 5 * 3),
                      .repetition_penalty = std::vector{1.0f, 1.05f, 1.5f, 0.5f, 100.0f, 0.01f}[r % 6],
                      .seed = static_cast<std::uint64_t>(r),
                      .step = 3,
                      .slot = static_cast<std::int32_t>(slots - 1 - r),
                      .newest = static_cast<std::int32_t>(random.integer(0, vocab - 1))});
  }
  std::vector<std::uint32_t> seen_after = seen;
  std::vector<std::vector<float>> scores;
  std::vector<std::int32_t> want;
  for (std::int64_t r = 0; r < rows; ++r) {
    SampleParams p = params[static_cast<std::size_t>(r)];
    std::vector<float> row(logits.floats() + r * vocab, logits.floats() + (r + 1) * vocab);
    std::uint32_t* bits = seen_after.data() + p.slot * words;
    if (p.repetition_penalty != 1) bits[p.newest / 32] |= 1u << p.newest % 32;
    for (std::int64_t id = 0; id < vocab && p.repetition_penalty != 1; ++id) {
      if ((bits[id / 32] >> id % 32 & 1) == 0) continue;
      const double logit = row[id], penalty = p.repetition_penalty;
      row[id] = static_cast<float>(logit < 0 ? logit * penalty : logit / penalty);
    }
    p.repetition_penalty = 1;
    want.push_back(one(row, p));
    scores.push_back(row);
  }
  std::vector<std::int32_t> out(rows, -7);
  cpu::sample({logits.floats(), params.data(), out.data(), rows, vocab, seen.data()});
  CHECK(out == want);
  CHECK(seen == seen_after);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < vocab; ++i) {
      const float got = logits.floats()[r * vocab + i], wanted = scores[static_cast<std::size_t>(r)][i];
      if (!(got == wanted || (std::isnan(got) && std::isnan(wanted)))) FAIL_CHECK(r << ' ' << i << ' ' << got);
    }
}

TEST_CASE("sample: draws follow the distribution that temperature, top_k and top_p leave") {
  // Shares 0.4, 0.3, 0.2, 0.1 at temperature 1, ids out of order.
  const std::vector<float> logits{std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f), -kInf};
  const int draws = 20000;
  check_distribution(histogram(logits, {.temperature = 1, .seed = 1}, draws), {{0, .1}, {1, .4}, {2, .2}, {3, .3}},
                     draws);
  check_distribution(histogram(logits, {.temperature = 0.5, .seed = 2}, draws),
                     {{0, .01 / .3}, {1, .16 / .3}, {2, .04 / .3}, {3, .09 / .3}}, draws);
  check_distribution(histogram(logits, {.temperature = 1, .top_k = 3, .seed = 3}, draws),
                     {{1, 4. / 9}, {2, 2. / 9}, {3, 3. / 9}}, draws);
  check_distribution(histogram(logits, {.temperature = 1, .top_p = 0.65, .seed = 4}, draws), {{1, 4. / 7}, {3, 3. / 7}},
                     draws);
  // Of the three left 0.44, 0.33, 0.22: 0.75 of that needs two; of all four it would need three.
  check_distribution(histogram(logits, {.temperature = 1, .top_p = 0.75, .top_k = 3, .seed = 5}, draws),
                     {{1, 4. / 7}, {3, 3. / 7}}, draws);
  CHECK(histogram(logits, {.temperature = 1, .top_p = 0, .seed = 6}, 50) == std::map<std::int32_t, int>{{1, 50}});
  CHECK(histogram(logits, {.temperature = 1e-6f, .seed = 6}, 50) == std::map<std::int32_t, int>{{1, 50}});
}

TEST_CASE("sample: equals at a cut stay by id, and large vocabularies agree with sorting") {
  CHECK(histogram({1, 1, 1, 1}, {.temperature = 1, .top_k = 2}, 200).rbegin()->first == 1);
  CHECK(histogram({1, 1, 1, 1}, {.temperature = 1, .top_p = 0.5}, 200).rbegin()->first == 1);
  Random random(31);
  Tensor logits = random.normal(DType::f32, 30000, 3);
  const std::vector<float> row(logits.floats(), logits.floats() + logits.size);
  std::vector<float> sorted = row;
  std::sort(sorted.rbegin(), sorted.rend());
  double total = 0, mass = 0;
  for (float x : sorted) total += std::exp(double{x} - sorted[0]);
  std::size_t kept = 0;
  while (mass < 0.9 * total) mass += std::exp(double{sorted[kept++]} - sorted[0]);
  for (auto [id, n] : histogram(row, {.temperature = 1, .top_k = 50}, 300)) CHECK(row[id] >= sorted[49]);
  for (auto [id, n] : histogram(row, {.temperature = 1, .top_p = 0.9}, 300)) CHECK(row[id] >= sorted[kept - 1]);
}
