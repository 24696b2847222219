#include "kernels/cpu/fit_tail.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <vector>

#include "kernels/base/bytes.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/simd/simd.h"
#include "kernels/cpu/top_rows.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kTrials = 64;

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
  TailTrials(const TailSample& s, const float* beside)
      : s_(s),
        beside_(beside),
        d_(s.a.head_dim),
        group_(s.a.q_heads / s.a.kv_heads),
        trials_(std::min(s.a.queries, kTrials)),
        lines_(trials_ * group_),
        forms_(forms_at(s.a.q_pos + s.a.queries - 1, s.a.chunk)),
        sinks_(std::min(count(), ceil_div(s.a.sinks * s.sampled.count, s.sampled.rows))),
        each_(static_cast<double>(s.sampled.rows) / static_cast<double>(s.sampled.count)),
        queries_(forms_ * lines_ * d_),
        truth_(lines_ * s.padded),
        listed_(lines_ * s.padded),
        all_(lines_ * d_),
        some_(lines_ * d_),
        tails_(lines_),
        before_(lines_),
        truth_sums_(lines_),
        listed_sums_(lines_),
        mean_(d_) {
    const FitLabelsArgs& a = s.a;
    for (std::int64_t n = 0; n < forms_ * trials_; ++n) {
      const std::int64_t form = n / trials_, t = n % trials_;
      float* to = &queries_[n * group_ * d_];
      const float* from =
          read_row(at(a.q, a.act, (index(t) * a.q_heads + s.head * group_) * d_), a.act, group_ * d_, to);
      for (std::int64_t i = 0; i < group_ * d_; ++i) to[i] = from[i] * a.scale;
      if (form > 0) turn(form, position(t), to);
    }
    for (std::int64_t i = 0; i < count(); ++i)
      for (std::int64_t c = 0; c < d_; ++c) mean_[c] += s.values[i * d_ + c];
    for (double& x : mean_) x /= static_cast<double>(count());
  }

  void run(float* weights) {
    for (std::int64_t form = 0; form < forms_; ++form)
      multiply(form, &queries_[form * lines_ * d_], d_, s_.keys, true, d_, truth_);
    choose();
    add_values(truth_, all_);
    add_values(listed_, some_);
    for (std::int64_t g = 0; g < group_; ++g) {
      std::vector<Trial> trials;
      for (std::int64_t t = 0; t < trials_; ++t) {
        const Trial trial = judge(t * group_ + g);
        if (trial.tail > 0 && std::isfinite(trial.tail + trial.along + trial.square + trial.before))
          trials.push_back(trial);
      }
      weights[g] = best_weight(trials);
    }
  }

 private:
  std::int64_t count() const { return s_.sampled.count; }
  std::int64_t index(std::int64_t t) const { return (2 * t + 1) * s_.a.queries / (2 * trials_); }
  std::int64_t position(std::int64_t t) const { return s_.a.q_pos + index(t); }
  /// The group's queries, from their own form to another of the same position.
  void turn(std::int64_t form, std::int64_t position, float* queries) const {
    std::vector<float> turn(d_);
    fill_turn(s_.sampled.turn(form, position, position), s_.a.inv_freq, d_, turn.data());
    for (std::int64_t g = 0; g < group_; ++g) simd().rotate(queries + g * d_, &turn[0], &turn[d_ / 2], d_ / 2);
  }
  const float* query(std::int64_t line, std::int64_t form) const { return &queries_[(form * lines_ + line) * d_]; }
  /// Of the sample, the rows that are before the query's window.
  std::int64_t seen(std::int64_t t) const {
    const std::int64_t end = position(t) + 1 - s_.a.window;  // rows
    return std::max<std::int64_t>(0, std::min(count(), end <= 0 ? 0 : (end * count() - 1) / s_.sampled.rows + 1));
  }
  /// Scores of all lines to `out`; of an older form where it is the one that asks.
  void multiply(std::int64_t form, const float* q, std::int64_t width, const float* keys, bool transposed,
                std::int64_t stride, std::vector<float>& out) const {
    each_piece([&](std::int64_t first, std::int64_t n) {
      thread_local Scratch scratch;
      float* const scores = form > 0 ? scratch.get<float>(n * s_.padded) : &out[first * s_.padded];
      gemm({.a = q + first * width,
            .a_type = DType::f32,
            .lda = width,
            .b = keys,
            .b_type = DType::f32,
            .ldb = stride,
            .b_transposed = transposed,
            .c = scores,
            .ldc = s_.padded,
            .accumulate = false,
            .m = n,
            .n = count(),
            .k = width});
      for (std::int64_t i = 0; form > 0 && i < n; ++i)
        s_.sampled.take(form, position((first + i) / group_), scores + i * s_.padded, &out[(first + i) * s_.padded]);
    });
  }
  void add_values(const std::vector<float>& weights, std::vector<float>& out) const {
    each_piece([&](std::int64_t first, std::int64_t n) {
      gemm({.a = &weights[first * s_.padded],
            .a_type = DType::f32,
            .lda = s_.padded,
            .b = s_.values,
            .b_type = DType::f32,
            .ldb = d_,
            .b_transposed = false,
            .c = &out[first * d_],
            .ldc = d_,
            .accumulate = false,
            .m = n,
            .n = d_,
            .k = count()});
    });
  }

  /// body(first line, lines), in parallel; what a line gets does not depend on who does it.
  template <class Body>
  void each_piece(const Body& body) const {
    constexpr std::int64_t kTogether = 8;  // trials
    parallel_for(ceil_div(trials_, kTogether), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t piece = begin; piece < end; ++piece) {
        const std::int64_t first = piece * kTogether;
        body(first * group_, std::min(kTogether, trials_ - first) * group_);
      }
    });
  }

  /// Scores to weights of rows of the prompt: a row of the sample stands for each_ of them, a sink for itself. Zero
  /// from `seen` on. Returns the sum and the highest score.
  std::pair<double, float> weigh(float* scores, std::int64_t seen) const {
    if (seen == 0) {
      std::fill_n(scores, s_.padded, 0.0f);
      return {0, 0.0f};
    }
    const float top = simd().top_score(scores, seen);
    const double all = simd().exp_scores(scores, top, seen);
    std::fill(scores + seen, scores + s_.padded, 0.0f);
    const std::int64_t first = std::min(sinks_, seen);
    const double given = std::accumulate(scores, scores + first, 0.0);
    const auto each = static_cast<float>(each_);
    for (std::int64_t i = first; i < seen; ++i) scores[i] *= each;
    return {given + (all - given) * each_, top};
  }

  /// Lists the rows that labels choose, and what they say of the others.
  void choose() {
    const std::int64_t dims = s_.a.labels.dims;
    const Basis basis = basis_of(s_.a.labels, s_.head, d_);
    std::vector<float> q(lines_ * dims), estimate(lines_ * s_.padded);
    for (std::int64_t form = 0; form < forms_; ++form) {
      for (std::int64_t i = 0; i < lines_; ++i) simd().dots(basis.query_map, dims, d_, query(i, form), &q[i * dims]);
      multiply(form, q.data(), dims, s_.labels, false, s_.padded, estimate);
    }
    add_beside(estimate);
    parallel_for(trials_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) choose(t, &estimate[t * group_ * s_.padded]);
    });
  }

  /// `estimate`: [group, padded] label scores of the trial.
  void choose(std::int64_t t, float* estimate) {
    const std::int64_t n = seen(t);
    std::vector<double> sums(group_), tops(group_);
    std::vector<float> factors(group_);
    for (std::int64_t g = 0; g < group_; ++g) {
      std::tie(sums[g], tops[g]) = weigh(estimate + g * s_.padded, n);
      factors[g] = static_cast<float>(1 / sums[g]);
    }
    const std::vector<std::int32_t> order = chosen(estimate, factors, n);
    const std::vector<float> window = window_keys(t);
    for (std::int64_t g = 0; g < group_; ++g) {
      const std::int64_t line = t * group_ + g;
      float *truth = &truth_[line * s_.padded], *listed = &listed_[line * s_.padded];
      const auto [sum, top] = weigh(truth, n);
      double held = 0, some = 0;
      for (const std::int32_t i : order) {
        held += estimate[g * s_.padded + i];
        some += listed[i] = truth[i];
      }
      before_[line] = sum / (sum + window_sum(t, line, window, top));
      tails_[line] = std::max(sums[g] - held, 0.0) * std::exp(tops[g] + beside(line, 0) - top) / some;
      truth_sums_[line] = sum, listed_sums_[line] = some;
    }
  }

  /// Of n rows the sinks, and those that the group's combined weights put first.
  std::vector<std::int32_t> chosen(const float* weights, const std::vector<float>& factors, std::int64_t n) const {
    const auto wanted = static_cast<std::int64_t>(std::ceil(s_.a.share * static_cast<double>(n)));
    if (n == 0) return {};
    std::vector<std::uint32_t> keys(s_.padded);
    simd().combine(weights, s_.padded, factors.data(), group_, false, keys.data(), n);
    std::fill_n(keys.begin(), std::min(sinks_, n), ~std::uint32_t{0});
    TopRows top({.keys = keys.data(), .first = 0, .rows = n, .chunk = n, .lowest = 0, .wanted = std::min(wanted, n)});
    for (int digit = 0; digit < kKeyDigits; ++digit) top.count(0, digit), top.pick(digit);
    std::vector<std::int32_t> rows(n);
    rows.resize(top.place());
    top.emit(0, rows.data());
    return rows;
  }

  /// What label scores lack of a query.
  float beside(std::int64_t line, std::int64_t form) const {
    return std::inner_product(query(line, form), query(line, form) + d_, beside_, 0.0f);
  }
  /// What they lack of its older forms more than of its own.
  void add_beside(std::vector<float>& estimate) const {
    for (std::int64_t line = 0; forms_ > 1 && line < lines_; ++line)
      s_.sampled.for_each(position(line / group_), [&](std::int64_t begin, std::int64_t end, std::int64_t form) {
        const float more = beside(line, form) - beside(line, 0);
        for (std::int64_t i = begin; i < end; ++i) estimate[line * s_.padded + i] += more;
      });
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
    std::vector<float> scores(std::ssize(keys) / d_);
    const std::int64_t first = s_.a.q_pos + window_first(t);
    for_each_form(first, first + std::ssize(scores), position(t), s_.a.chunk,
                  [&](std::int64_t begin, std::int64_t end, std::int64_t form) {
                    simd().dots(&keys[(begin - first) * d_], end - begin, d_, query(line, form),
                                &scores[begin - first]);
                  });
    double sum = 0;
    for (const float score : scores) sum += std::exp(score - top);
    return sum;
  }

  Trial judge(std::int64_t line) const {
    const double all = truth_sums_[line], some = listed_sums_[line];
    Trial trial{tails_[line], 0, 0, before_[line]};
    for (std::int64_t c = 0; c < d_; ++c) {
      const double listed = some_[line * d_ + c] / some, to = mean_[c] - listed;
      trial.along += (all_[line * d_ + c] / all - listed) * to, trial.square += to * to;
    }
    return trial;
  }

  const TailSample& s_;
  const float* beside_;                      // [d]
  std::int64_t d_, group_, trials_, lines_;  // a line: a query head of a trial
  std::int64_t forms_;                       // of the queries where they stood
  std::int64_t sinks_;                       // of the sample, the first
  double each_;                              // rows of the prompt that one of the sample stands for
  std::vector<float> queries_;               // [forms, lines, d], scaled
  std::vector<float> truth_, listed_;        // [lines, padded]
  std::vector<float> all_, some_;            // [lines, d]
  std::vector<double> tails_, before_;       // [lines]
  std::vector<double> truth_sums_, listed_sums_;
  std::vector<double> mean_;  // [d]
};

}  // namespace

void find_beside(const TailSample& s, float* beside) {
  const std::int64_t d = s.a.head_dim;
  const Basis basis = basis_of(s.a.labels, s.head, d);
  const auto count = static_cast<double>(std::max<std::int64_t>(s.sampled.count, 1));
  std::vector<double> sums(d);
  for (std::int64_t i = 0; i < s.sampled.count; ++i)
    for (std::int64_t c = 0; c < d; ++c) sums[c] += s.keys[i * d + c];
  for (std::int64_t j = 0; j < s.a.labels.dims; ++j) {
    const float* labels = s.labels + j * s.padded;
    const double sum = std::accumulate(labels, labels + s.sampled.count, 0.0);
    for (std::int64_t c = 0; c < d; ++c) sums[c] -= sum * basis.query_map[j * d + c];
  }
  for (std::int64_t c = 0; c < d; ++c) {
    const auto x = static_cast<float>(sums[c] / count);
    beside[c] = std::isfinite(x) ? x : 0.0f;
  }
}

void fit_tail(const TailSample& sample, const float* beside, float* weights) {
  std::fill_n(weights, sample.a.q_heads / sample.a.kv_heads, 1.0f);
  if (sample.a.fit != LabelFit::given) TailTrials(sample, beside).run(weights);
}

}  // namespace longhaul::cpu
