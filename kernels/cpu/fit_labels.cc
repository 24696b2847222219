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
#include "kernels/cpu/fit_queries.h"
#include "kernels/cpu/fit_tail.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gram.h"
#include "kernels/cpu/key_labels.h"
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

/// Of the queries at their targets.
std::int64_t forms_of(const FitLabelsArgs& a) { return forms_at(a.target + a.targets - 1, a.chunk); }

/// By what each query is turned, [forms, queries, head_dim], as fill_turn() has it; none for a given basis.
Floats turns_of(const FitLabelsArgs& a, const FitKeys& sampled) {
  if (a.fit == LabelFit::given) return {};
  Floats out(forms_of(a) * a.queries * a.head_dim);
  parallel_for(forms_of(a) * a.queries, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const std::int64_t i = n % a.queries, by = sampled.turn(n / a.queries, target_of(a, i), a.q_pos + i);
      fill_turn(by, a.inv_freq, a.head_dim, &out[n * a.head_dim]);
    }
  });
  return out;
}

/// What add(i, sums) adds to `width` sums for each i below `count`: the same whoever does what, in parallel.
template <class Add>
std::vector<double> add_up(std::int64_t count, std::int64_t width, const Add& add) {
  constexpr std::int64_t kSlab = 256;
  const std::int64_t slabs = ceil_div(count, kSlab);
  std::vector<double> parts(slabs * width), all(width);
  parallel_for(slabs, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * kSlab; i < std::min(end * kSlab, count); ++i) add(i, &parts[i / kSlab * width]);
  });
  for (std::int64_t slab = 0; slab < slabs; ++slab)
    for (std::int64_t c = 0; c < width; ++c) all[c] += parts[slab * width + c];
  return all;
}

/// One KV head. Vectors, not a thread's scratch, for what lives across parallel loops.
class HeadFit {
 public:
  HeadFit(const FitLabelsArgs& a, const KvTile& at_queries, const FitKeys& sampled, const Floats& turns,
          std::int64_t head)
      : a_(a),
        at_queries_(at_queries),
        sampled_(sampled),
        turns_(turns),
        head_(head),
        d_(a.head_dim),
        group_(a.q_heads / a.kv_heads),
        forms_(forms_of(a)),
        count_(sampled.count),
        padded_(round_up(std::max<std::int64_t>(count_, 1), kAttendBlock)),
        keys_(count_ * d_),
        values_(a.weighs_tail ? count_ * d_ : 0),
        basis_(basis_of(a.labels, head, d_)),
        labels_(a.labels, basis_, keys_.data(), count_, padded_, d_) {
    for (std::int64_t i = 0; i < count_; ++i) {
      const std::byte* row = a.kv.data + head * a.kv.head_stride + fit_key(i, a.kv.rows) * 2 * d_ * size_of(a.act);
      widen(row, &keys_[i * d_]);
      if (a.weighs_tail) widen(row + d_ * size_of(a.act), &values_[i * d_]);
    }
    if (a.fit != LabelFit::document) return;
    queries_.resize(forms_ * trials() * group_ * d_);
    for (std::int64_t form = 0; form < forms_; ++form)
      for (std::int64_t t = 0; t < trials(); ++t) turn_queries(trial(t), form, query(t, form));
  }

  void run() {
    choose_basis();
    const TailFit tail = tail_fit(a_.labels.basis, a_.kv_heads, d_, a_.labels.dims);
    float *beside = tail.beside + head_ * d_, *weights = tail.weights + head_ * group_;
    if (!a_.weighs_tail && a_.chunk == 0) return;
    const Floats labels = labels_.quantised();
    find_beside(sample(labels), beside);
    if (a_.weighs_tail) fit_tail(sample(labels), beside, weights);
    else std::fill_n(weights, group_, 1.0f);
  }

 private:
  void widen(const std::byte* from, float* to) const {
    const float* row = read_row(from, a_.act, d_, to);
    if (row != to) std::copy_n(row, d_, to);
  }

  void choose_basis() {
    if (a_.fit == LabelFit::given) return labels_.fit_range();
    find_moments();
    const HeadMoments moments{q_moment_.data(), k_moment_.data(), d_};
    if (a_.fit != LabelFit::document) {
      if (a_.fit != LabelFit::moments || !best_basis(moments, a_.labels.dims, basis_.key_map, basis_.query_map))
        channel_basis(worth().data(), d_, a_.labels.dims, basis_.key_map, basis_.query_map);
      return labels_.fit_range();
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
      labels_.fit_range();
      const double kept = kept_mass();
      if (!(kept > most)) continue;
      most = kept;
      best.assign(basis_.key_map, basis_.key_map + label_basis_floats(dims, d_));
    }
    if (!best.empty()) std::copy(best.begin(), best.end(), basis_.key_map);
  }

  TailSample sample(const Floats& labels) const {
    return {.a = a_,
            .at_queries = at_queries_,
            .sampled = sampled_,
            .head = head_,
            .keys = keys_.data(),
            .values = values_.data(),
            .labels = labels.data(),
            .padded = padded_};
  }

  /// The group's i-th queries at their target position, to `to` [group, d].
  void turn_queries(std::int64_t i, std::int64_t form, float* to) const {
    const std::int64_t width = group_ * d_;
    const float* from = read_row(at(a_.q, a_.act, (i * a_.q_heads + head_ * group_) * d_), a_.act, width, to);
    if (from != to) std::copy_n(from, width, to);
    const float* turn = &turns_[(form * a_.queries + i) * d_];
    for (std::int64_t g = 0; g < group_; ++g) simd().rotate(to + g * d_, turn, turn + d_ / 2, d_ / 2);
  }
  /// Of the t-th trial.
  float* query(std::int64_t t, std::int64_t form) { return &queries_[(form * trials() + t) * group_ * d_]; }
  /// The share of the keys that the i-th query asks with this form: 1 where there is no other.
  double share(std::int64_t i, std::int64_t form) const {
    std::int64_t keys = 0;
    sampled_.for_each(target_of(a_, i), [&](std::int64_t begin, std::int64_t end, std::int64_t of) {
      if (of == form) keys += end - begin;
    });
    return static_cast<double>(keys) / static_cast<double>(count_);
  }
  std::int64_t trial(std::int64_t t) const { return (2 * t + 1) * a_.queries / (2 * trials()); }
  std::int64_t trials() const { return std::min(a_.queries, kTrials); }

  void find_moments() {
    std::vector<double> q_abs(d_);
    const std::vector<double> keys = add_up(count_, 2 * d_, [&](std::int64_t i, double* sums) {
      for (std::int64_t c = 0; c < d_; ++c) {
        sums[c] += keys_[i * d_ + c];
        sums[d_ + c] += std::abs(keys_[i * d_ + c]);
      }
    });
    std::vector<double> k_abs(keys.begin() + d_, keys.end());
    Floats centre(d_);
    for (std::int64_t c = 0; c < d_; ++c) centre[c] = static_cast<float>(keys[c] / static_cast<double>(count_));
    q_moment_.assign(d_ * d_, 0.0);
    k_moment_.assign(d_ * d_, 0.0);
    add_gram({keys_.data(), DType::f32, d_, count_, d_}, centre.data(), k_moment_.data());
    Floats& weighed = turned_;
    weighed.resize(a_.queries * group_ * d_);
    for (std::int64_t form = 0; form < forms_; ++form) {  // over them all, means over the keys
      const std::vector<double> sums = add_up(a_.queries, d_, [&](std::int64_t i, double* sums) {
        float* const x = &weighed[i * group_ * d_];
        turn_queries(i, form, x);
        const double share = this->share(i, form);
        for (std::int64_t g = 0; g < group_; ++g)
          for (std::int64_t c = 0; c < d_; ++c) sums[c] += share * std::abs(x[g * d_ + c]);
        if (forms_ > 1) simd().scale(x, static_cast<float>(std::sqrt(share)), x, group_ * d_);
      });
      for (std::int64_t c = 0; c < d_; ++c) q_abs[c] += sums[c];
      for (std::int64_t g = 0; g < group_; ++g)
        add_gram({&weighed[g * d_], DType::f32, group_ * d_, a_.queries, d_}, nullptr, q_moment_.data());
    }
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
    for (std::int64_t form = 0; form < forms_; ++form)
      multiply(
          form, d_, [&](std::int64_t t) { return query(t, form); }, keys_.data(), true, d_);
    probabilities(truth_);
  }

  /// scores = vectors of the trial queries, `dims` wide, times those of the keys, times scale; of an older form where
  /// it is the one that asks.
  template <class Query>
  void multiply(std::int64_t form, std::int64_t dims, const Query& query, const float* keys, bool transposed,
                std::int64_t stride) {
    constexpr std::int64_t kPiece = 16;
    parallel_for(ceil_div(trials(), kPiece), 1, [&](std::int64_t begin, std::int64_t end) {
      thread_local Scratch scratch;
      float* q = scratch.get<float>(kPiece * group_ * (dims + (form > 0 ? padded_ : 0)));
      for (std::int64_t piece = begin; piece < end; ++piece) {
        const std::int64_t first = piece * kPiece, n = std::min(kPiece, trials() - first);
        float* const scores = &scores_[first * group_ * padded_];
        float* const out = form == 0 ? scores : q + kPiece * group_ * dims;
        for (std::int64_t t = 0; t < n; ++t)
          simd().scale(query(first + t), a_.scale, q + t * group_ * dims, group_ * dims);
        gemm({.a = q,
              .a_type = DType::f32,
              .lda = dims,
              .b = keys,
              .b_type = DType::f32,
              .ldb = stride,
              .b_transposed = transposed,
              .c = out,
              .ldc = padded_,
              .accumulate = false,
              .m = n * group_,
              .n = count_,
              .k = dims});
        for (std::int64_t line = 0; form > 0 && line < n * group_; ++line)
          sampled_.take(form, target_of(a_, trial(first + line / group_)), out + line * padded_,
                        scores + line * padded_);
      }
    });
  }

  /// The share of the trial queries' attention that goes to the keys which their labels choose, after fit_range().
  double kept_mass() {
    const std::int64_t dims = a_.labels.dims;
    const Floats labels = labels_.quantised();
    Floats q(trials() * group_ * dims);
    for (std::int64_t form = 0; form < forms_; ++form) {
      for (std::int64_t t = 0; t < trials(); ++t)
        for (std::int64_t g = 0; g < group_; ++g)
          simd().dots(basis_.query_map, dims, d_, query(t, form) + g * d_, &q[(t * group_ + g) * dims]);
      multiply(
          form, dims, [&](std::int64_t t) { return &q[t * group_ * dims]; }, labels.data(), false, padded_);
    }
    add_beside(labels);
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

  /// What label scores lack of an older form more than of a query's own, as select() adds it.
  void add_beside(const Floats& labels) {
    if (forms_ == 1) return;
    Floats beside(d_);
    find_beside(sample(labels), beside.data());
    for (std::int64_t line = 0; line < trials() * group_; ++line) {
      const std::int64_t t = line / group_, first = line % group_ * d_;
      sampled_.for_each(target_of(a_, trial(t)), [&](std::int64_t begin, std::int64_t end, std::int64_t form) {
        float more = 0;
        for (std::int64_t c = 0; c < d_; ++c)
          more += (query(t, form)[first + c] - query(t, 0)[first + c]) * beside[c] * a_.scale;
        for (std::int64_t key = begin; key < end; ++key) scores_[line * padded_ + key] += more;
      });
    }
  }

  const FitLabelsArgs& a_;
  const KvTile& at_queries_;
  const FitKeys& sampled_;
  const Floats& turns_;
  std::int64_t head_, d_, group_, forms_;
  std::int64_t count_, padded_;  // keys looked at
  Floats keys_, values_;         // [count, d]
  Floats turned_;                // [queries, group * d] of one form
  Floats queries_;               // [forms, trials, group * d], turned
  Basis basis_;
  KeyLabels labels_;
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
  const FitKeys sampled{fit_keys(a.kv.rows), rows, a.chunk, a.reach};
  const Floats turns = turns_of(a, sampled);
  parallel_for(a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t h = begin; h < end; ++h) HeadFit(a, at_queries, sampled, turns, h).run();
  });
}

}  // namespace longhaul::cpu
