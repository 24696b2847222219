// select: scores by labels, the group's combined score, and the exact top of it.
//
// Rows are cut into chunks at fixed row numbers, whatever threads there are; where a step needs all chunks of a head
// (the softmax's maximum and sum, the threshold), their results are combined in order. So the list never depends on
// how the work was cut.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/labels.h"
#include "kernels/cpu/lists.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/query_forms.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/top_rows.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kChunk = 8192;
constexpr std::uint32_t kAnyKey = 0, kAboveMinusInfinity = 0x00800000;

class Selection {
 public:
  /// Token t of the batch, whose span selects from more rows than its budget.
  Selection(const SelectArgs& a, std::int64_t t)
      : a_(a),
        span_(a.batch.spans[t]),
        out_(list_of(a.out, t * a.kv_heads)),
        group_(a.q_heads / a.kv_heads),
        scored_(span_.rows - span_.window),
        stride_(round_up(a.batch.capacity, kAttendBlock)),
        t_(t),
        scratch_(a.scratch + t * (a.q_heads + a.kv_heads) * stride_),
        mass_(a.mass == nullptr ? nullptr : a.mass + span_.slot * a.mass_session_stride),
        labels_(a.by == SelectBy::labels ? labels_of(a.labels, span_.slot) : a.labels),
        chunks_(ceil_div(scored_, kChunk)),
        tail_(a.out.tail == nullptr ? nullptr : a.out.tail + t * a.q_heads),
        softmax_(a.by == SelectBy::labels && (group_ > 1 || a.top_p < 1 || tail_ != nullptr)),
        forms_(a.by == SelectBy::labels ? forms_at(span_.rows - 1, a.forms.chunk) : 0),
        weights_(forms_ * a.q_heads * a.labels.dims),
        beside_(forms_ * a.q_heads),
        tops_(softmax_ ? a.q_heads * chunks_ : 0),
        sums_(tops_.size()),
        kept_(softmax_ && a.sums != nullptr ? a.sums + span_.slot * a.sums_stride : nullptr) {
    for (std::int64_t h = 0; h < a.kv_heads; ++h)
      tops_of_.emplace_back(TopRows::Options{.keys = keys(h, 0),
                                             .first = span_.sinks,
                                             .rows = scored_,
                                             .chunk = kChunk,
                                             .lowest = a.by == SelectBy::mass ? kAboveMinusInfinity : kAnyKey,
                                             .wanted = span_.budget - span_.sinks - span_.window,
                                             .top_p = a.top_p,
                                             .mass = a.by == SelectBy::mass ? total_mass(h) : 1.0});
  }

  /// Each step needs the one before for all chunks of its head.
  void run() {
    if (chunks_ == 1) {
      each_head([&](std::int64_t h) {
        weigh(h), score(h, 0), sum(h, 0), combine(h, 0);
        for (int digit = 0; digit < kKeyDigits; ++digit) tops_of_[h].count(0, digit), tops_of_[h].pick(digit);
        place(h), emit(h, 0), tail(h);
      });
      return;
    }
    each_head([&](std::int64_t h) { weigh(h); });
    each_chunk([&](std::int64_t h, std::int64_t c) { score(h, c); });
    if (softmax_) each_chunk([&](std::int64_t h, std::int64_t c) { sum(h, c); });
    for (int digit = 0; digit < kKeyDigits; ++digit) {
      each_chunk([&](std::int64_t h, std::int64_t c) {
        if (digit == 0) combine(h, c);
        tops_of_[h].count(c, digit);
      });
      each_head([&](std::int64_t h) { tops_of_[h].pick(digit); });
    }
    each_head([&](std::int64_t h) { place(h); });
    each_chunk([&](std::int64_t h, std::int64_t c) { emit(h, c); });
    each_head([&](std::int64_t h) { tail(h); });
  }

 private:
  template <class Body>
  void each_head(const Body& body) {
    parallel_for(a_.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h) body(h);
    });
  }
  template <class Body>
  void each_chunk(const Body& body) {
    parallel_for(a_.kv_heads * chunks_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) body(i / chunks_, i % chunks_);
    });
  }

  std::int64_t rows_of(std::int64_t c) const { return std::min(kChunk, scored_ - c * kChunk); }
  float* scores(std::int64_t q_head, std::int64_t c) const { return scratch_ + q_head * stride_ + c * kChunk; }
  std::uint32_t* keys(std::int64_t h, std::int64_t c) const {
    return reinterpret_cast<std::uint32_t*>(scores(a_.q_heads + h, c));
  }
  const float* mass(std::int64_t h, std::int64_t c) const { return mass_ + h * a_.mass_stride + c * kChunk; }

  double total_mass(std::int64_t h) const {
    double total = 0;
    if (a_.top_p < 1)
      for (std::int64_t r = 0; r < scored_; ++r) total += std::max(mass(h, 0)[r], 0.0f);
    return total;
  }

  /// The group's queries in the basis, times the steps: a score is then the sum of weight * code, but for what is the
  /// same for all rows that one form of the query asks. Of that, what an older form has more than the query's own.
  void weigh(std::int64_t h) {
    if (a_.by != SelectBy::labels) return;
    thread_local Scratch scratch;
    const std::int64_t d = a_.head_dim, dims = a_.labels.dims;
    float* space = scratch.get<float>(2 * d);
    const Basis basis = basis_of(labels_, h, d);
    for (std::int64_t form = 0; form < forms_; ++form)
      for (std::int64_t g = h * group_; g < (h + 1) * group_; ++g) {
        float *q = space + d, *w = weights(form, g);
        simd().scale(read_row(query_at(a_, form, t_, g), a_.act, d, space), a_.scale, q, d);
        simd().dots(basis.query_map, dims, d, q, w);
        if (form > 0) beside_[form * a_.q_heads + g] = static_cast<float>(beside(form, g) - beside(0, g));
        if (a_.labels.bits == 16) continue;
        for (std::int64_t j = 0; j < dims; ++j) w[j] *= basis.step[j];
      }
  }
  float* weights(std::int64_t form, std::int64_t g) { return &weights_[(form * a_.q_heads + g) * a_.labels.dims]; }

  /// What label scores of a query head lack on average.
  double beside(std::int64_t form, std::int64_t g) const {
    const std::int64_t d = a_.head_dim;
    thread_local Scratch scratch;
    const float* q = read_row(query_at(a_, form, t_, g), a_.act, d, scratch.get<float>(d));
    const float* mean = tail_fit(labels_.basis, a_.kv_heads, d, labels_.dims).beside + g / group_ * d;
    return std::inner_product(q, q + d, mean, 0.0) * static_cast<double>(a_.scale);
  }

  void score(std::int64_t h, std::int64_t c) {
    if (a_.by != SelectBy::labels) return;
    const std::int64_t first = h * group_, n = rows_of(c), row = c * kChunk;
    for_each_form(row, row + n, span_.rows - 1, a_.forms.chunk,
                  [&](std::int64_t begin, std::int64_t end, std::int64_t form) {
                    float* const out = scores(first, c) + begin - row;
                    simd().scan_labels({.codes = label_block(labels_, h, begin / kAttendBlock),
                                        .weights = weights(form, first),
                                        .out = out,
                                        .out_stride = stride_,
                                        .blocks = ceil_div(end - begin, kAttendBlock),
                                        .heads = group_,
                                        .dims = a_.labels.dims,
                                        .bits = a_.labels.bits});
                    if (form == 0) return;
                    for (std::int64_t g = 0; g < group_; ++g) {
                      const float more = beside_[form * a_.q_heads + first + g];
                      float* const s = out + g * stride_;
                      for (std::int64_t i = 0; i < end - begin; ++i) s[i] += more;
                    }
                  });
    if (softmax_)
      for (std::int64_t g = first; g < first + group_; ++g) tops_[g * chunks_ + c] = simd().top_score(scores(g, c), n);
  }

  void sum(std::int64_t h, std::int64_t c) {
    if (!softmax_) return;
    for (std::int64_t g = h * group_; g < (h + 1) * group_; ++g)
      sums_[g * chunks_ + c] = simd().exp_scores(scores(g, c), a_.sums_given ? kept_[g] : top(g), rows_of(c));
  }
  float top(std::int64_t g) const { return *std::max_element(&tops_[g * chunks_], &tops_[g * chunks_] + chunks_); }
  double total(std::int64_t g) const {
    return std::accumulate(&sums_[g * chunks_], &sums_[g * chunks_] + chunks_, 0.0);
  }

  void combine(std::int64_t h, std::int64_t c) {
    thread_local Scratch scratch;
    const std::int64_t n = rows_of(c);
    float* factors = scratch.get<float>(group_);
    std::fill_n(factors, group_, 1.0f);
    float* s = scores(h * group_, c);
    if (a_.by == SelectBy::mass) {  // a copy, because whole vectors are read
      std::copy_n(mass(h, c), n, s);
      std::fill(s + n, s + round_up(n, kMostLanes), 0.0f);
    } else if (softmax_) {
      for (std::int64_t g = 0; g < group_; ++g) {
        const double all = a_.sums_given ? 1.0 : total(h * group_ + g);
        factors[g] = static_cast<float>(1 / (a_.combine == Combine::mean ? all * group_ : all));
      }
    }
    const std::int64_t heads = a_.by == SelectBy::mass ? 1 : group_;
    simd().combine(s, stride_, factors, heads, a_.combine == Combine::max, keys(h, c), n);
  }

  /// The rows that are in without a score, around the others.
  void place(std::int64_t h) {
    if (kept_ != nullptr && !a_.sums_given)
      for (std::int64_t g = h * group_; g < (h + 1) * group_; ++g)
        kept_[g] = static_cast<float>(top(g) + std::log(total(g)));
    std::int32_t *out = out_.rows + h * out_.stride, sinks = span_.sinks;
    const std::int64_t chosen = tops_of_[h].place();
    std::iota(out, out + sinks, 0);
    std::iota(out + sinks + chosen, out + sinks + chosen + span_.window, static_cast<std::int32_t>(scored_));
    out_.count[h] = static_cast<std::int32_t>(sinks + chosen + span_.window);
  }

  void emit(std::int64_t h, std::int64_t c) { tops_of_[h].emit(c, out_.rows + h * out_.stride + span_.sinks); }

  /// What the rows that are not listed have, by their labels.
  void tail(std::int64_t h) {
    if (tail_ == nullptr) return;
    const std::int32_t* rows = out_.rows + h * out_.stride;
    const TailFit fit = tail_fit(labels_.basis, a_.kv_heads, a_.head_dim, labels_.dims);
    for (std::int64_t g = h * group_; g < (h + 1) * group_; ++g) {
      tail_[g] = kNoTail;
      if (!softmax_) continue;
      const float* shares = scores(g, 0);
      double left = total(g);
      for (std::int64_t i = 0; i < out_.count[h] - span_.window; ++i) left -= shares[rows[i]];
      const double log = top(g) + std::log(left * fit.weights[g]) + beside(0, g);
      if (left > 0 && fit.weights[g] > 0 && std::isfinite(log)) tail_[g] = static_cast<float>(log);
    }
  }

  const SelectArgs& a_;
  const StepSpan& span_;
  RowList out_;
  std::int64_t group_, scored_, stride_;
  std::int64_t t_;
  float* scratch_;
  const float* mass_;
  LabelTile labels_;
  std::int64_t chunks_;
  float* tail_;  // [q_heads] or null
  bool softmax_;
  std::int64_t forms_;              // of the query; 0: no label is read
  std::vector<float> weights_;      // [forms, q_heads, dims]
  std::vector<float> beside_;       // [forms, q_heads] added to scores of rows that an older form asks
  std::vector<float> tops_, sums_;  // [q_heads, chunks]
  float* kept_;                     // SelectArgs::sums of the session, or null
  std::vector<TopRows> tops_of_;    // [kv_heads]
};

/// No scores: the sinks, and the rest of the budget at the end.
void select_ends(const RowList& list, std::int64_t heads, std::int32_t rows, std::int32_t sinks, std::int32_t window) {
  for (std::int64_t h = 0; h < heads; ++h) {
    std::int32_t* out = list.rows + h * list.stride;
    std::iota(out, out + sinks, 0);
    std::iota(out + sinks, out + sinks + window, rows - window);
    list.count[h] = sinks + window;
  }
}

void select_rows(const SelectArgs& a, std::int64_t t) {
  const StepSpan& span = a.batch.spans[t];
  check(span.slot >= 0 && span.rows >= 0 && span.sinks >= 0 && span.window >= 0, "select: a span has sense");
  check(span.rows <= a.batch.capacity, "select: no span has more rows than the batch's capacity");
  check(span.budget >= span.sinks + span.window, "select: the budget holds the sinks and the window");
  check(!a.sums_given || (a.sums != nullptr && a.out.tail == nullptr), "select: given sums are there, without a tail");
  check(a.out.stride >= std::min(span.budget, span.rows), "select: the list has room for the budget");
  const RowList out = list_of(a.out, t * a.kv_heads);
  if (a.out.tail != nullptr) std::fill_n(a.out.tail + t * a.q_heads, a.q_heads, kNoTail);
  if (span.budget >= span.rows) return select_ends(out, a.kv_heads, span.rows, 0, span.rows);
  if (a.by == SelectBy::none || span.budget == span.sinks + span.window)  // none competes
    return select_ends(out, a.kv_heads, span.rows, span.sinks, span.budget - span.sinks);
  Selection(a, t).run();
}

}  // namespace

void select(const SelectArgs& a) {
  check_forms(a.forms);
  if (a.by == SelectBy::labels) check_labels(a.labels, a.head_dim);
  for (std::int64_t t = 0; t < a.batch.count; ++t) select_rows(a, t);
}

}  // namespace longhaul::cpu
