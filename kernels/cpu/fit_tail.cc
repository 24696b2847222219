#include "kernels/cpu/fit_tail.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/base/bytes.h"
#include "kernels/cpu/fit_scores.h"
#include "kernels/cpu/top_rows.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kTrials = 64;
constexpr std::int64_t kLines = 32;  // worked on together

/// What one query tells of the weight.
struct Trial {
  double tail;    // by labels
  double along;   // (true output - listed) . (mean - listed)
  double square;  // (mean - listed) squared
  double before;  // share of its attention that is before the window, which is what the tail is a part of
};

float best_weight(const std::vector<Trial>& trials) {
  constexpr int kSteps = 8;  // weights of an octave
  double least = 0, weight = 0;
  for (int i = -10 * kSteps; i <= 3 * kSteps; ++i) {
    const double w = std::exp2(static_cast<double>(i) / kSteps);
    double error = 0;
    for (const Trial& t : trials) {
      const double share = w * t.tail / (1 + w * t.tail);
      error += t.before * t.before * share * (share * t.square - 2 * t.along);
    }
    if (error < least) least = error, weight = w;
  }
  return static_cast<float>(weight);
}

class TailTrials {
 public:
  explicit TailTrials(const TailSample& s)
      : s_(s),
        d_(s.a.head_dim),
        padded_(s.rows.padded),
        group_(s.a.q_heads / s.a.kv_heads),
        trials_(std::min(s.a.queries, kTrials)),
        lines_(trials_ * group_),
        forms_(forms_at(s.a.q_pos + s.a.queries - 1, s.a.chunk)),
        sinks_(std::min(count(), ceil_div(s.a.sinks * s.sampled.count, s.sampled.rows))),
        each_(static_cast<double>(s.sampled.rows) / static_cast<double>(s.sampled.count)),
        queries_(forms_ * lines_ * d_ * size_of(s.a.act)),
        told_(lines_) {
    find_mean();
  }

  void run(float* weights) {
    each_piece(trials_, group_, kLines, [&](std::int64_t first, std::int64_t n) { try_piece(first, n); });
    for (std::int64_t g = 0; g < group_; ++g) {
      std::vector<Trial> trials;
      for (std::int64_t t = 0; t < trials_; ++t) {
        const Trial& trial = told_[t * group_ + g];
        if (trial.tail > 0 && std::isfinite(trial.tail + trial.along + trial.square + trial.before))
          trials.push_back(trial);
      }
      weights[g] = best_weight(trials);
    }
  }

 private:
  /// What one query head's attention comes to: by labels, and the truth of the rows listed and of the others.
  struct Line {
    double tail, before, all, listed;  // sums of true weights
  };

  std::int64_t count() const { return s_.sampled.count; }
  std::int64_t index(std::int64_t t) const { return (2 * t + 1) * s_.a.queries / (2 * trials_); }
  std::int64_t position(std::int64_t t) const { return s_.a.q_pos + index(t); }
  const std::byte* query(std::int64_t line, std::int64_t form) const {
    return at(queries_.data(), s_.a.act, (form * lines_ + line) * d_);
  }
  /// Of the sample, the rows that are before the query's window.
  std::int64_t seen(std::int64_t t) const {
    const std::int64_t end = position(t) + 1 - s_.a.window;  // rows
    return std::max<std::int64_t>(0, std::min(count(), end <= 0 ? 0 : (end * count() - 1) / s_.sampled.rows + 1));
  }

  void find_mean() {
    constexpr std::int64_t kSlab = 256;
    const std::int64_t slabs = ceil_div(count(), kSlab);
    std::vector<float> parts(slabs * 2 * d_);
    parallel_for(slabs, 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> space(d_);
      for (std::int64_t i = begin * kSlab; i < std::min(end * kSlab, count()); ++i) {
        float* part = &parts[i / kSlab * 2 * d_];
        simd().add_sizes(read_row(s_.rows.value(i), s_.a.act, d_, space.data()), 1, part, part + d_, d_);
      }
    });
    mean_.assign(d_, 0.0);
    for (std::int64_t slab = 0; slab < slabs; ++slab)
      for (std::int64_t c = 0; c < d_; ++c) mean_[c] += parts[slab * 2 * d_ + c];
    for (double& x : mean_) x /= static_cast<double>(count());
  }

  /// The group's queries, in their own form as they are, in another turned to it at the same position.
  void read_queries(std::int64_t t, std::int64_t form) {
    const FitLabelsArgs& a = s_.a;
    std::vector<float> wide(group_ * d_), turn(d_);
    const std::byte* from = at(a.q, a.act, (index(t) * a.q_heads + s_.head * group_) * d_);
    std::byte* to = at(queries_.data(), a.act, (form * lines_ + t * group_) * d_);
    if (form == 0) {
      std::memcpy(to, from, group_ * d_ * size_of(a.act));
      return;
    }
    const float* q = read_row(from, a.act, group_ * d_, wide.data());
    if (q != wide.data()) std::copy_n(q, group_ * d_, wide.data());
    fill_turn(s_.sampled.turn(form, position(t), position(t)), a.inv_freq, d_, turn.data());
    for (std::int64_t g = 0; g < group_; ++g) simd().rotate(&wide[g * d_], &turn[0], &turn[d_ / 2], d_ / 2);
    write_row(wide.data(), to, a.act, group_ * d_);
  }

  /// Tells of trials [first, first + n).
  void try_piece(std::int64_t first, std::int64_t n) {
    const std::int64_t lines = n * group_, begin = first * group_;
    const FitRows& rows = s_.rows;
    thread_local Scratch scratch;
    float* truth = scratch.get<float>(3 * lines * padded_ + 2 * lines * d_);
    float *estimate = truth + lines * padded_, *listed = estimate + lines * padded_, *others = listed + lines * d_;
    float* narrow = others + lines * d_;
    for (std::int64_t form = 0; form < forms_; ++form)
      for (std::int64_t t = first; t < first + n; ++t) read_queries(t, form);
    const auto place = [&](std::int64_t i) { return position((begin + i) / group_); };
    score_forms(
        s_.sampled, forms_, lines, padded_,
        [&](std::int64_t form, float* to) { score_keys(rows, query(begin, form), lines, s_.a.scale, to); }, place,
        truth);
    score_forms(
        s_.sampled, forms_, lines, padded_,
        [&](std::int64_t form, float* to) {
          score_labels(rows, query(begin, form), lines, s_.a.scale, s_.basis, s_.labels, to);
          for (std::int64_t i = 0; form > 0 && i < lines; ++i) {  // what they lack of it more than of a query's own
            const float more = beside(begin + i, form) - beside(begin + i, 0);
            for (std::int64_t key = 0; key < count(); ++key) to[i * padded_ + key] += more;
          }
        },
        place, estimate);
    std::vector<Line> found(lines);
    for (std::int64_t t = 0; t < n; ++t) {
      const std::int64_t line = t * group_;
      choose(first + t, truth + line * padded_, estimate + line * padded_, &found[line], listed + line * d_);
    }
    // Of the rows not listed only: the rounding of weights is then of what the tail is to make up for.
    for (std::int64_t i = 0; i < lines; ++i)
      write_row(truth + i * padded_, at(narrow, s_.a.act, i * padded_), s_.a.act, padded_);
    gemm({.a = narrow,
          .a_type = s_.a.act,
          .lda = padded_,
          .b = rows.value(0),
          .b_type = s_.a.act,
          .ldb = rows.stride(),
          .b_transposed = false,
          .c = others,
          .ldc = d_,
          .accumulate = false,
          .m = lines,
          .n = d_,
          .k = count()});
    for (std::int64_t i = 0; i < lines; ++i) told_[begin + i] = judge(found[i], listed + i * d_, others + i * d_);
  }

  /// Scores to weights of rows of the prompt: a row of the sample stands for each_ of them, a sink for itself. Zero
  /// from `seen` on. Returns the sum and the highest score.
  std::pair<double, float> weigh(float* scores, std::int64_t seen) const {
    if (seen == 0) {
      std::fill_n(scores, padded_, 0.0f);
      return {0, 0.0f};
    }
    const float top = simd().top_score(scores, seen);
    const double all = simd().exp_scores(scores, top, seen);
    std::fill(scores + seen, scores + padded_, 0.0f);
    const std::int64_t first = std::min(sinks_, seen);
    const double given = std::accumulate(scores, scores + first, 0.0);
    simd().scale(scores + first, static_cast<float>(each_), scores + first, seen - first);
    return {given + (all - given) * each_, top};
  }

  /// A trial's group: from scores to weights, what labels say, and the listed rows' share of the output, which leave
  /// `truth`.
  void choose(std::int64_t t, float* truth, float* estimate, Line* found, float* listed) const {
    const std::int64_t n = seen(t);
    std::vector<double> sums(group_), tops(group_);
    std::vector<float> factors(group_);
    for (std::int64_t g = 0; g < group_; ++g) {
      std::tie(sums[g], tops[g]) = weigh(estimate + g * padded_, n);
      factors[g] = static_cast<float>(1 / sums[g]);
    }
    const std::vector<std::int32_t> order = chosen(estimate, factors, n);
    const std::vector<float> window = window_keys(t);
    const std::int64_t size = std::ssize(order);
    std::vector<float> weights(group_ * size);
    for (std::int64_t g = 0; g < group_; ++g) {
      const std::int64_t line = t * group_ + g;
      const auto [sum, top] = weigh(truth + g * padded_, n);
      double held = 0, some = 0;
      for (std::int64_t i = 0; i < size; ++i) {
        float& weight = truth[g * padded_ + order[i]];
        held += estimate[g * padded_ + order[i]];
        some += weights[g * size + i] = weight;
        weight = 0;
      }
      found[g] = {std::max(sums[g] - held, 0.0) * std::exp(tops[g] + beside(line, 0) - top) / some,
                  sum / (sum + window_sum(t, line, window, top)), sum, some};
    }
    add_listed(order, weights, listed);
  }

  /// [group, d] of the listed rows' values.
  void add_listed(const std::vector<std::int32_t>& order, const std::vector<float>& weights, float* listed) const {
    const std::int64_t size = std::ssize(order);
    std::fill_n(listed, group_ * d_, 0.0f);
    if (size == 0) return;
    thread_local Scratch scratch;
    float* values = scratch.get<float>(size * d_);
    for (std::int64_t i = 0; i < size; ++i) {
      const float* from = read_row(s_.rows.value(order[i]), s_.a.act, d_, values + i * d_);
      if (from != values + i * d_) std::copy_n(from, d_, values + i * d_);
    }
    gemm({.a = weights.data(),
          .a_type = DType::f32,
          .lda = size,
          .b = values,
          .b_type = DType::f32,
          .ldb = d_,
          .b_transposed = false,
          .c = listed,
          .ldc = d_,
          .accumulate = false,
          .m = group_,
          .n = d_,
          .k = size});
  }

  /// Of n rows the sinks, and those that the group's combined weights put first.
  std::vector<std::int32_t> chosen(const float* weights, const std::vector<float>& factors, std::int64_t n) const {
    const auto wanted = static_cast<std::int64_t>(std::ceil(s_.a.share * static_cast<double>(n)));
    if (n == 0) return {};
    std::vector<std::uint32_t> keys(padded_);
    simd().combine(weights, padded_, factors.data(), group_, false, keys.data(), n);
    constexpr std::uint32_t kFirst = 0xfffffffe;  // above every weight's; the highest is no key
    std::fill_n(keys.begin(), std::min(sinks_, n), kFirst);
    TopRows top({.keys = keys.data(), .first = 0, .rows = n, .chunk = n, .lowest = 0, .wanted = std::min(wanted, n)});
    for (int digit = 0; digit < kKeyDigits; ++digit) top.count(0, digit), top.pick(digit);
    std::vector<std::int32_t> rows(n);
    rows.resize(top.place());
    top.emit(0, rows.data());
    return rows;
  }

  /// What label scores lack of a query.
  float beside(std::int64_t line, std::int64_t form) const {
    std::vector<float> space(d_);
    const float* q = read_row(query(line, form), s_.a.act, d_, space.data());
    return s_.a.scale * std::inner_product(q, q + d_, s_.beside, 0.0f);
  }

  /// [rows of the trial's window, d]
  std::vector<float> window_keys(std::int64_t t) const {
    const FitLabelsArgs& a = s_.a;
    const std::int64_t first = window_first(t), n = index(t) + 1 - first;
    std::vector<float> keys(n * d_);
    const std::byte* rows = s_.at_queries.data + s_.head * s_.at_queries.head_stride;
    for (std::int64_t i = 0; i < n; ++i) {
      float* key = &keys[i * d_];
      const float* k = read_row(rows + (first + i) * 2 * d_ * size_of(a.act), a.act, d_, key);
      if (k != key) std::copy_n(k, d_, key);
    }
    return keys;
  }
  std::int64_t window_first(std::int64_t t) const { return std::max<std::int64_t>(0, index(t) + 1 - s_.a.window); }

  /// exp(score - top) over the query's window.
  double window_sum(std::int64_t t, std::int64_t line, const std::vector<float>& keys, float top) const {
    const std::int64_t n = std::ssize(keys) / d_, first = s_.a.q_pos + window_first(t);
    std::vector<float> scores(round_up(n, 16), -std::numeric_limits<float>::infinity()), space(d_);
    for_each_form(first, first + n, position(t), s_.a.chunk,
                  [&](std::int64_t begin, std::int64_t end, std::int64_t form) {
                    const float* q = read_row(query(line, form), s_.a.act, d_, space.data());
                    simd().dots(&keys[(begin - first) * d_], end - begin, d_, q, &scores[begin - first]);
                  });
    simd().scale(scores.data(), s_.a.scale, scores.data(), n);
    return simd().exp_scores(scores.data(), top, n);
  }

  Trial judge(const Line& line, const float* listed, const float* others) const {
    Trial trial{line.tail, 0, 0, line.before};
    for (std::int64_t c = 0; c < d_; ++c) {
      const double some = listed[c] / line.listed, to = mean_[c] - some;
      trial.along += ((static_cast<double>(listed[c]) + others[c]) / line.all - some) * to, trial.square += to * to;
    }
    return trial;
  }

  const TailSample& s_;
  std::int64_t d_, padded_, group_, trials_, lines_;  // a line: a query head of a trial
  std::int64_t forms_;                                // of the queries where they stood
  std::int64_t sinks_;                                // of the sample, the first
  double each_;                                       // rows of the prompt that one of the sample stands for
  std::vector<std::byte> queries_;                    // [forms, lines, d] activations
  std::vector<double> mean_;                          // [d] of the values
  std::vector<Trial> told_;                           // [lines]
};

}  // namespace

void find_beside(const FitRows& rows, const std::vector<double>& key_sums, const Basis& basis, const KeyLabels& labels,
                 float* beside) {
  const std::int64_t d = rows.dim;
  std::vector<double> sums = key_sums;
  for (std::int64_t j = 0; j < std::ssize(labels.sums); ++j)
    for (std::int64_t c = 0; c < d; ++c) sums[c] -= labels.sums[j] * basis.query_map[j * d + c];
  for (std::int64_t c = 0; c < d; ++c) {
    const auto x = static_cast<float>(sums[c] / static_cast<double>(std::max<std::int64_t>(rows.count, 1)));
    beside[c] = std::isfinite(x) ? x : 0.0f;
  }
}

void fit_tail(const TailSample& sample, float* weights) {
  std::fill_n(weights, sample.a.q_heads / sample.a.kv_heads, 1.0f);
  if (sample.a.fit != LabelFit::given) TailTrials(sample).run(weights);
}

}  // namespace longhaul::cpu
