// fit_labels: the basis of a layer's labels from the document's own keys and recent queries, head by head.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/fit_tail.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gram.h"
#include "kernels/cpu/label_basis.h"
#include "kernels/cpu/labels.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/top_rows.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kTrials = 32;  // queries that candidates are compared with

/// A question asks with queries that the document has not seen: of every direction a little is expected, as a share of
/// the mean variance (DESIGN.md, "A prior for queries not seen").
constexpr double kUnasked = 0.05;

using Floats = std::vector<float>;

/// Where the i-th query is turned to: positions all over the range, near queries to distant ones.
std::int64_t target_of(const FitLabelsArgs& a, std::int64_t i) {
  const auto spread = static_cast<std::uint32_t>(i) * 2654435769u;  // by the golden ratio
  return a.target + static_cast<std::int64_t>(static_cast<std::uint64_t>(spread) * a.targets >> 32);
}

/// By what each query is turned: cosines, then sines, [queries, head_dim]; none for a given basis.
Floats turns_of(const FitLabelsArgs& a) {
  if (a.fit == LabelFit::given) return {};
  const std::int64_t d = a.head_dim, half = d / 2;
  Floats out(a.queries * d);
  parallel_for(a.queries, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto by = static_cast<double>(target_of(a, i) - (a.q_pos + i));
      for (std::int64_t c = 0; c < half; ++c) {
        const double angle = by * a.inv_freq[c];
        out[i * d + c] = static_cast<float>(std::cos(angle));
        out[i * d + half + c] = static_cast<float>(std::sin(angle));
      }
    }
  });
  return out;
}

/// One KV head. Vectors, not a thread's scratch, for what lives across parallel loops.
class HeadFit {
 public:
  HeadFit(const FitLabelsArgs& a, const KvTile& at_queries, std::int64_t rows, const Floats& turns, std::int64_t head)
      : a_(a),
        at_queries_(at_queries),
        rows_(rows),
        head_(head),
        d_(a.head_dim),
        group_(a.q_heads / a.kv_heads),
        count_(fit_keys(a.kv.rows)),
        padded_(round_up(std::max<std::int64_t>(count_, 1), kAttendBlock)),
        keys_(count_ * d_),
        values_(a.weighs_tail ? count_ * d_ : 0),
        basis_(basis_of(a.labels, head, d_)) {
    for (std::int64_t i = 0; i < count_; ++i) {
      const std::byte* row = a.kv.data + head * a.kv.head_stride + fit_key(i, a.kv.rows) * 2 * d_ * size_of(a.act);
      widen(row, &keys_[i * d_]);
      if (a.weighs_tail) widen(row + d_ * size_of(a.act), &values_[i * d_]);
    }
    if (a.fit != LabelFit::given) turn_queries(turns);
  }

  void run() {
    choose_basis();
    if (a_.weighs_tail) weigh_tail();
  }

 private:
  void widen(const std::byte* from, float* to) const {
    const float* row = read_row(from, a_.act, d_, to);
    if (row != to) std::copy_n(row, d_, to);
  }

  void choose_basis() {
    if (a_.fit == LabelFit::given) return fit_range();
    find_moments();
    const HeadMoments moments{q_moment_.data(), k_moment_.data(), d_};
    if (a_.fit != LabelFit::document) {
      if (a_.fit != LabelFit::moments || !best_basis(moments, a_.labels.dims, basis_.key_map, basis_.query_map))
        channel_basis(worth().data(), d_, a_.labels.dims, basis_.key_map, basis_.query_map);
      return fit_range();
    }
    find_truth();
    Floats best;
    double most = -1;
    for (int candidate = 0; candidate < 3; ++candidate) {
      const std::int64_t dims = a_.labels.dims;
      if (candidate == 0 && !best_basis(moments, dims, basis_.key_map, basis_.query_map)) continue;
      if (candidate > 0)
        channel_basis((candidate == 1 ? centred_worth_ : plain_worth_).data(), d_, dims, basis_.key_map,
                      basis_.query_map);
      fit_range();
      const double kept = kept_mass();
      if (!(kept > most)) continue;
      most = kept;
      best.assign(basis_.key_map, basis_.key_map + label_basis_floats(dims, d_));
    }
    if (!best.empty()) std::copy(best.begin(), best.end(), basis_.key_map);
  }

  void weigh_tail() {
    const Floats labels = quantised();
    const TailFit tail = tail_fit(a_.labels.basis, a_.kv_heads, d_, a_.labels.dims);
    fit_tail({.a = a_,
              .at_queries = at_queries_,
              .rows = rows_,
              .head = head_,
              .keys = keys_.data(),
              .values = values_.data(),
              .labels = labels.data(),
              .count = count_,
              .padded = padded_},
             tail.beside + head_ * d_, tail.weights + head_ * group_);
  }

  /// The group's queries at their target positions.
  void turn_queries(const Floats& turns) {
    const std::int64_t width = group_ * d_;
    queries_.resize(a_.queries * width);
    parallel_for(a_.queries, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        float* x = &queries_[i * width];
        const float* from = read_row(at(a_.q, a_.act, (i * a_.q_heads + head_ * group_) * d_), a_.act, width, x);
        if (from != x) std::copy_n(from, width, x);
        const float* turn = &turns[i * d_];
        for (std::int64_t g = 0; g < group_; ++g) simd().rotate(x + g * d_, turn, turn + d_ / 2, d_ / 2);
      }
    });
  }
  const float* query(std::int64_t i) const { return &queries_[i * group_ * d_]; }
  std::int64_t trial(std::int64_t t) const { return (2 * t + 1) * a_.queries / (2 * trials()); }
  std::int64_t trials() const { return std::min(a_.queries, kTrials); }

  void find_moments() {
    std::vector<double> mean(d_), k_abs(d_), q_abs(d_);  // sums
    for (std::int64_t i = 0; i < count_; ++i)
      for (std::int64_t c = 0; c < d_; ++c) mean[c] += keys_[i * d_ + c], k_abs[c] += std::abs(keys_[i * d_ + c]);
    for (double& x : mean) x /= static_cast<double>(count_);
    const Floats centre(mean.begin(), mean.end());
    q_moment_.assign(d_ * d_, 0.0);
    k_moment_.assign(d_ * d_, 0.0);
    add_gram({keys_.data(), DType::f32, d_, count_, d_}, centre.data(), k_moment_.data());
    for (std::int64_t g = 0; g < group_; ++g)
      add_gram({query(0) + g * d_, DType::f32, group_ * d_, a_.queries, d_}, nullptr, q_moment_.data());
    for (std::int64_t i = 0; i < a_.queries; ++i)
      for (std::int64_t g = 0; g < group_; ++g)
        for (std::int64_t c = 0; c < d_; ++c) q_abs[c] += std::abs(query(i)[g * d_ + c]);
    for (std::int64_t c = 0; c < d_; ++c) {
      centred_worth_.push_back(std::sqrt(q_moment_[c * d_ + c] * k_moment_[c * d_ + c]));
      plain_worth_.push_back(q_abs[c] * k_abs[c]);
    }
    double trace = 0;
    for (std::int64_t c = 0; c < d_; ++c) trace += q_moment_[c * d_ + c];
    for (std::int64_t c = 0; c < d_; ++c) q_moment_[c * d_ + c] += kUnasked * trace / static_cast<double>(d_);
    q_abs_ = std::move(q_abs);
    k_abs_ = std::move(k_abs);
  }

  /// What a ranking of single channels goes by.
  std::vector<double> worth() const {
    switch (a_.fit) {
      case LabelFit::q:
        return q_abs_;
      case LabelFit::k:
        return k_abs_;
      case LabelFit::abs:
        return plain_worth_;
      case LabelFit::qk:
        return products();
      case LabelFit::pairs: {
        std::vector<double> pairs = centred_worth_;
        for (std::int64_t c = 0; c < d_ / 2; ++c) pairs[c] = pairs[c + d_ / 2] = pairs[c] + pairs[c + d_ / 2];
        return pairs;
      }
      default:
        return centred_worth_;
    }
  }

  /// |q k| of queries, where they stood, and the keys of the same positions.
  std::vector<double> products() const {
    std::vector<double> sums(d_);
    Floats q(group_ * d_), k(d_);
    for (std::int64_t i = 0; i < a_.queries; ++i) {
      const float* query =
          read_row(at(a_.q, a_.act, (i * a_.q_heads + head_ * group_) * d_), a_.act, group_ * d_, q.data());
      const std::byte* row = at_queries_.data + head_ * at_queries_.head_stride + i * 2 * d_ * size_of(a_.act);
      const float* key = read_row(row, a_.act, d_, k.data());
      for (std::int64_t j = 0; j < group_ * d_; ++j) sums[j % d_] += std::abs(query[j] * key[j % d_]);
    }
    return sums;
  }

  /// Coordinates of the keys in the basis, [dims, padded].
  Floats coordinates() const {
    const std::int64_t dims = a_.labels.dims;
    Floats out(dims * padded_);
    parallel_for(padded_ / kAttendBlock, 16, [&](std::int64_t begin, std::int64_t end) {
      thread_local Scratch scratch;
      float* block = scratch.get<float>(dims * kAttendBlock);
      for (std::int64_t b = begin; b < end; ++b) {
        const std::int64_t first = b * kAttendBlock, n = std::min(kAttendBlock, count_ - first);
        simd().project_f32({&keys_[first * d_], d_, basis_.key_map, block, n, dims, d_});
        for (std::int64_t j = 0; j < dims; ++j) std::copy_n(block + j * kAttendBlock, n, &out[j * padded_ + first]);
      }
    });
    return out;
  }

  float top_code() const { return static_cast<float>((1 << std::min<std::int64_t>(a_.labels.bits, 8)) - 1); }

  void fit_range() {
    if (count_ == 0 || a_.labels.bits == 16) {
      std::fill_n(basis_.zero, a_.labels.dims, 0.0f);
      std::fill_n(basis_.step, a_.labels.dims, 1.0f);
      return;
    }
    const Floats x = coordinates();
    for (std::int64_t j = 0; j < a_.labels.dims; ++j) {
      const auto [low, high] = range_of(&x[j * padded_]);
      const float step = (high - low) / top_code(), least = std::max(std::abs(low), 1e-20f) * 1e-6f;
      basis_.zero[j] = low;
      basis_.step[j] = std::isfinite(step) ? std::max(step, least) : std::numeric_limits<float>::max() / 512;
    }
  }

  /// The range that codes cover. Extreme keys are those that get the attention, and keys to come reach further: cutting
  /// the range to the inner 99.6 % costs more than its finer steps bring (0.001 of the mass at 1/16, 0.010 at 1/64 on a
  /// trained model). Yet one outlier must not stretch it.
  std::pair<float, float> range_of(const float* x) const {
    double n = 0, sum = 0, squares = 0;
    float low = std::numeric_limits<float>::max(), high = -low;
    for (std::int64_t i = 0; i < count_; ++i) {
      if (!std::isfinite(x[i])) continue;
      n += 1, sum += x[i], squares += static_cast<double>(x[i]) * x[i];
      low = std::min(low, x[i]), high = std::max(high, x[i]);
    }
    if (n == 0) return {0.0f, 0.0f};
    const double mean = sum / n, reach = 4.5 * std::sqrt(std::max(squares / n - mean * mean, 0.0));
    const double more = 0.1 * (static_cast<double>(high) - low);
    return {static_cast<float>(std::max(low - more, mean - reach)),
            static_cast<float>(std::min(high + more, mean + reach))};
  }

  /// From scores to the group's combined probability of each key, as ordered keys.
  void probabilities(std::vector<std::uint32_t>& keys) {
    keys.resize(trials() * padded_);
    parallel_for(trials(), 1, [&](std::int64_t begin, std::int64_t end) {
      thread_local Scratch scratch;
      float* factors = scratch.get<float>(group_);
      for (std::int64_t t = begin; t < end; ++t) {
        float* s = &scores_[t * group_ * padded_];
        for (std::int64_t g = 0; g < group_; ++g) {
          const float top = simd().top_score(s + g * padded_, count_);
          factors[g] = 1 / (simd().exp_scores(s + g * padded_, top, count_) * static_cast<float>(group_));
        }
        simd().combine(s, padded_, factors, group_, false, &keys[t * padded_], count_);
      }
    });
  }

  /// What the trial queries attend to in truth.
  void find_truth() {
    scores_.resize(trials() * group_ * padded_);
    multiply(
        d_, [&](std::int64_t t) { return query(trial(t)); }, keys_.data(), true, d_);
    probabilities(truth_);
  }

  /// scores = vectors of the trial queries, `dims` wide, times those of the keys, times scale.
  template <class Query>
  void multiply(std::int64_t dims, const Query& query, const float* keys, bool transposed, std::int64_t stride) {
    constexpr std::int64_t kPiece = 16;
    parallel_for(ceil_div(trials(), kPiece), 1, [&](std::int64_t begin, std::int64_t end) {
      thread_local Scratch scratch;
      float* q = scratch.get<float>(kPiece * group_ * dims);
      for (std::int64_t piece = begin; piece < end; ++piece) {
        const std::int64_t first = piece * kPiece, n = std::min(kPiece, trials() - first);
        for (std::int64_t t = 0; t < n; ++t)
          simd().scale(query(first + t), a_.scale, q + t * group_ * dims, group_ * dims);
        gemm({.a = q,
              .a_type = DType::f32,
              .lda = dims,
              .b = keys,
              .b_type = DType::f32,
              .ldb = stride,
              .b_transposed = transposed,
              .c = &scores_[first * group_ * padded_],
              .ldc = padded_,
              .accumulate = false,
              .m = n * group_,
              .n = count_,
              .k = dims});
      }
    });
  }

  /// The share of the trial queries' attention that goes to the keys which their labels choose, after fit_range().
  double kept_mass() {
    const std::int64_t dims = a_.labels.dims;
    const Floats labels = quantised();
    Floats q(trials() * group_ * dims);
    for (std::int64_t t = 0; t < trials(); ++t)
      for (std::int64_t g = 0; g < group_; ++g)
        simd().dots(basis_.query_map, dims, d_, query(trial(t)) + g * d_, &q[(t * group_ + g) * dims]);
    multiply(
        dims, [&](std::int64_t t) { return &q[t * group_ * dims]; }, labels.data(), false, padded_);
    probabilities(estimate_);
    std::vector<double> kept(trials());
    parallel_for(trials(), 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::int32_t> rows(count_);
      for (std::int64_t t = begin; t < end; ++t) {
        const auto wanted = static_cast<std::int64_t>(std::ceil(a_.share * static_cast<double>(count_)));
        TopRows top({.keys = &estimate_[t * padded_],
                     .first = 0,
                     .rows = count_,
                     .chunk = count_,
                     .lowest = 0,
                     .wanted = std::clamp<std::int64_t>(wanted, 1, count_)});
        for (int digit = 0; digit < kKeyDigits; ++digit) top.count(0, digit), top.pick(digit);
        const std::int64_t n = top.place();
        top.emit(0, rows.data());
        for (std::int64_t i = 0; i < n; ++i) kept[t] += value_of_key(truth_[t * padded_ + rows[i]]);
      }
    });
    double sum = 0;
    for (double x : kept) sum += x;
    return sum / static_cast<double>(trials());
  }

  /// What is left of the keys' coordinates in their labels, less the zeros, [dims, padded].
  Floats quantised() const {
    Floats labels = coordinates();
    parallel_for(a_.labels.dims, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t j = begin; j < end; ++j) quantise(&labels[j * padded_], j);
    });
    return labels;
  }

  void quantise(float* x, std::int64_t j) const {
    for (std::int64_t r = 0; r < padded_; r += kAttendBlock) {
      if (a_.labels.bits == 16) {
        for (std::int64_t i = r; i < r + kAttendBlock; ++i) x[i] = to_float(to_bf16(x[i]));
        continue;
      }
      std::uint8_t codes[kAttendBlock];
      simd().encode(x + r, basis_.zero[j], basis_.step[j], top_code(), codes);
      for (std::int64_t i = 0; i < kAttendBlock; ++i) x[r + i] = basis_.step[j] * static_cast<float>(codes[i]);
    }
  }

  const FitLabelsArgs& a_;
  const KvTile& at_queries_;
  std::int64_t rows_;  // that the keys stand for
  std::int64_t head_, d_, group_;
  std::int64_t count_, padded_;  // keys looked at
  Floats keys_, values_;         // [count, d]
  Floats queries_;               // [queries, group * d], turned
  Basis basis_;
  std::vector<double> q_moment_, k_moment_, q_abs_, k_abs_, centred_worth_, plain_worth_;
  Floats scores_;                                // [trials * group, padded]
  std::vector<std::uint32_t> truth_, estimate_;  // [trials, padded] combined probabilities as ordered keys
};

}  // namespace

void fit_labels(const FitLabelsArgs& a) {
  KvTile at_queries = a.kv;
  at_queries.data += a.q_pos * 2 * a.head_dim * size_of(a.act);
  fit_labels(a, at_queries, a.kv.rows);
}

void fit_labels(const FitLabelsArgs& a, const KvTile& at_queries, std::int64_t rows) {
  check_labels(a.labels, a.head_dim);
  check(a.fit == LabelFit::given || (a.queries > 0 && a.kv.rows > 0), "fit_labels: a basis is fitted to something");
  const Floats turns = turns_of(a);
  parallel_for(a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t h = begin; h < end; ++h) HeadFit(a, at_queries, rows, turns, h).run();
  });
}

}  // namespace longhaul::cpu
