// fit_labels: the basis of a layer's labels from the document's own keys and recent queries, head by head.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/fit_tail.h"
#include "kernels/cpu/fit_trials.h"
#include "kernels/cpu/gram.h"
#include "kernels/cpu/label_basis.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

/// A question asks with queries that the document has not seen: of every direction a little is expected, as a share of
/// the mean variance (DESIGN.md, "A prior for queries not seen").
constexpr double kUnasked = 0.05;

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

/// Per element of `width` the sum, and that of sizes, of what add(i, sums, sizes) adds for each i below `count`: the
/// same whoever does what, in parallel.
struct Sums {
  Doubles sums, sizes;

  template <class Add>
  Sums(std::int64_t count, std::int64_t width, const Add& add) : sums(width), sizes(width) {
    constexpr std::int64_t kSlab = 256;
    const std::int64_t slabs = ceil_div(count, kSlab);
    Floats parts(slabs * 2 * width);
    parallel_for(slabs, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin * kSlab; i < std::min(end * kSlab, count); ++i) {
        float* part = &parts[i / kSlab * 2 * width];
        add(i, part, part + width);
      }
    });
    for (std::int64_t slab = 0; slab < slabs; ++slab)
      for (std::int64_t c = 0; c < width; ++c)
        sums[c] += parts[slab * 2 * width + c], sizes[c] += parts[(slab * 2 + 1) * width + c];
  }
};

/// One KV head. Vectors, not a thread's scratch, for what lives across parallel loops.
class HeadFit {
 public:
  HeadFit(const FitLabelsArgs& a, const KvTile& at_queries, const FitKeys& sampled, const TurnedQueries& queries,
          std::int64_t head)
      : a_(a),
        at_queries_(at_queries),
        sampled_(sampled),
        queries_(queries),
        head_(head),
        d_(a.head_dim),
        group_(a.q_heads / a.kv_heads),
        count_(sampled.count),
        rows_{a.kv.data + head * a.kv.head_stride, a.act, count_,
              round_up(std::max<std::int64_t>(count_, 1), kAttendBlock), d_},
        basis_(basis_of(a.labels, head, d_)) {
    if (count_ < a.kv.rows) sample_rows();
    const Sums keys(count_, d_, [&](std::int64_t i, float* sums, float* sizes) {
      thread_local Scratch scratch;
      simd().add_sizes(read_row(rows_.key(i), a_.act, d_, scratch.get<float>(d_)), 1, sums, sizes, d_);
    });
    k_sums_ = keys.sums, k_abs_ = keys.sizes;
  }

  void run() {
    const KeyLabels labels = choose_basis();
    const TailFit tail = tail_fit(a_.labels.basis, a_.kv_heads, d_, a_.labels.dims);
    float *beside = tail.beside + head_ * d_, *weights = tail.weights + head_ * group_;
    if (!a_.weighs_tail && a_.chunk == 0) return;
    find_beside(rows_, k_sums_, basis_, labels, beside);
    if (a_.weighs_tail) fit_tail({a_, at_queries_, sampled_, head_, rows_, basis_, labels, beside}, weights);
    else std::fill_n(weights, group_, 1.0f);
  }

 private:
  void sample_rows() {
    const std::int64_t bytes = rows_.stride() * size_of(a_.act);
    sample_.resize(count_ * bytes);
    parallel_for(count_, 512, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        std::memcpy(&sample_[i * bytes], rows_.data + fit_key(i, a_.kv.rows) * bytes, bytes);
    });
    rows_.data = sample_.data();
  }

  KeyLabels ranges(const Basis& basis) const { return fit_ranges(rows_, basis, a_.labels.dims, a_.labels.bits); }

  KeyLabels choose_basis() {
    if (a_.fit == LabelFit::given) return ranges(basis_);
    find_moments();
    const HeadMoments moments{q_moment_.data(), k_moment_.data(), d_};
    if (a_.fit == LabelFit::document) return best_candidate(moments);
    if (a_.fit != LabelFit::moments || !best_basis(moments, a_.labels.dims, basis_.key_map, basis_.query_map))
      channel_basis(worth().data(), d_, a_.labels.dims, basis_.key_map, basis_.query_map);
    return ranges(basis_);
  }

  /// The basis of the moments, or that of single channels, by what the trial queries keep.
  KeyLabels best_candidate(const HeadMoments& moments) const {
    struct Candidate {
      Floats basis;
      KeyLabels labels;
      double kept = -1;
    };
    std::array<Candidate, 3> candidates;
    std::optional<Trials> trials;
    parallel_for(2, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        if (i == 1) trials.emplace(a_, sampled_, queries_, rows_, head_);
        else candidates[0].basis = basis_of_moments(moments);  // serial, and takes as long as all the rest
      }
    });
    candidates[1].basis = basis_of_channels(centred_worth_);
    candidates[2].basis = basis_of_channels(plain_worth_);
    parallel_for(3, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        Candidate& c = candidates[i];
        if (c.basis.empty()) continue;
        const Basis basis = basis_at(c.basis.data(), a_.labels.dims, d_);
        c.labels = ranges(basis);
        Floats beside(d_);
        if (queries_.forms() > 1) find_beside(rows_, k_sums_, basis, c.labels, beside.data());
        c.kept = trials->kept(basis, c.labels, beside.data());
      }
    });
    Candidate* best = &candidates[2];  // where what is kept is no number
    double most = -1;
    for (Candidate& c : candidates)
      if (c.kept > most) most = c.kept, best = &c;
    std::copy(best->basis.begin(), best->basis.end(), basis_.key_map);
    return std::move(best->labels);
  }

  /// Maps, and room for ranges; nothing where the moments do not have it.
  Floats basis_of_moments(const HeadMoments& moments) const {
    Floats floats(label_basis_floats(a_.labels.dims, d_));
    const Basis basis = basis_at(floats.data(), a_.labels.dims, d_);
    if (!best_basis(moments, a_.labels.dims, basis.key_map, basis.query_map)) floats.clear();
    return floats;
  }
  Floats basis_of_channels(const Doubles& worth) const {
    Floats floats(label_basis_floats(a_.labels.dims, d_));
    const Basis basis = basis_at(floats.data(), a_.labels.dims, d_);
    channel_basis(worth.data(), d_, a_.labels.dims, basis.key_map, basis.query_map);
    return floats;
  }

  void find_moments() {
    q_abs_.assign(d_, 0.0);
    q_moment_.assign(d_ * d_, 0.0);
    k_moment_.assign(d_ * d_, 0.0);
    Floats centre(d_);
    for (std::int64_t c = 0; c < d_; ++c) centre[c] = static_cast<float>(k_sums_[c] / static_cast<double>(count_));
    add_gram({rows_.data, a_.act, rows_.stride(), count_, d_}, centre.data(), k_moment_.data());
    const std::int64_t width = group_ * d_;
    std::vector<std::byte> weighed(a_.queries * width * size_of(a_.act));
    for (std::int64_t form = 0; form < queries_.forms(); ++form) {  // over them all, means over the keys
      const Sums sums(a_.queries, d_, [&](std::int64_t i, float* sums, float* sizes) {
        thread_local Scratch scratch;
        float* x = scratch.get<float>(width);
        queries_.read(i, head_, form, x);
        const auto share = static_cast<float>(queries_.share(i, form));
        for (std::int64_t g = 0; g < group_; ++g) simd().add_sizes(x + g * d_, share, sums, sizes, d_);
        if (share != 1) simd().scale(x, std::sqrt(share), x, width);
        write_row(x, at(weighed.data(), a_.act, i * width), a_.act, width);
      });
      for (std::int64_t c = 0; c < d_; ++c) q_abs_[c] += sums.sizes[c];
      add_gram({weighed.data(), a_.act, d_, a_.queries * group_, d_}, nullptr, q_moment_.data());
    }
    double trace = 0;
    for (std::int64_t c = 0; c < d_; ++c) {
      const double q = q_moment_[c * d_ + c];
      centred_worth_.push_back(std::sqrt(q * k_moment_[c * d_ + c]));
      plain_worth_.push_back(q_abs_[c] * k_abs_[c]);
      trace += q;
    }
    for (std::int64_t c = 0; c < d_; ++c) q_moment_[c * d_ + c] += kUnasked * trace / static_cast<double>(d_);
  }

  /// What a ranking of single channels goes by.
  Doubles worth() const {
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
        Doubles pairs = centred_worth_;
        for (std::int64_t c = 0; c < d_ / 2; ++c) pairs[c] = pairs[c + d_ / 2] = pairs[c] + pairs[c + d_ / 2];
        return pairs;
      }
      default:
        return centred_worth_;
    }
  }

  /// |q k| of queries, where they stood, and the keys of the same positions.
  Doubles products() const {
    Doubles sums(d_);
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

  const FitLabelsArgs& a_;
  const KvTile& at_queries_;
  const FitKeys& sampled_;
  const TurnedQueries& queries_;
  std::int64_t head_, d_, group_;
  std::int64_t count_;             // keys looked at
  std::vector<std::byte> sample_;  // where not every row is
  FitRows rows_;
  Basis basis_;
  Doubles k_sums_, k_abs_, q_abs_, q_moment_, k_moment_, centred_worth_, plain_worth_;
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
  const TurnedQueries queries(a, sampled);
  parallel_for(a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t h = begin; h < end; ++h) HeadFit(a, at_queries, sampled, queries, h).run();
  });
}

}  // namespace longhaul::cpu
