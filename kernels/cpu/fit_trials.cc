#include "kernels/cpu/fit_trials.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/fit_scores.h"
#include "kernels/cpu/top_rows.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kTrials = 32;  // queries that candidates are compared with
constexpr std::int64_t kLines = 16;   // worked on together

}  // namespace

TurnedQueries::TurnedQueries(const FitLabelsArgs& a, const FitKeys& sampled)
    : a_(a), sampled_(sampled), forms_(forms_at(a.target + a.targets - 1, a.chunk)) {
  if (a.fit == LabelFit::given) return;
  turns_.resize(forms_ * a.queries * a.head_dim);
  parallel_for(forms_ * a.queries, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const std::int64_t i = n % a.queries, by = sampled.turn(n / a.queries, target(i), a.q_pos + i);
      fill_turn(by, a.inv_freq, a.head_dim, &turns_[n * a.head_dim]);
    }
  });
}

std::int64_t TurnedQueries::target(std::int64_t i) const {
  const auto spread = static_cast<std::uint32_t>(i) * 2654435769u;  // by the golden ratio
  return a_.target + static_cast<std::int64_t>(static_cast<std::uint64_t>(spread) * a_.targets >> 32);
}

void TurnedQueries::read(std::int64_t i, std::int64_t head, std::int64_t form, float* to) const {
  const std::int64_t d = a_.head_dim, group = a_.q_heads / a_.kv_heads;
  const float* from = read_row(at(a_.q, a_.act, (i * a_.q_heads + head * group) * d), a_.act, group * d, to);
  if (from != to) std::copy_n(from, group * d, to);
  const float* turn = &turns_[(form * a_.queries + i) * d];
  for (std::int64_t g = 0; g < group; ++g) simd().rotate(to + g * d, turn, turn + d / 2, d / 2);
}

double TurnedQueries::share(std::int64_t i, std::int64_t form) const {
  if (forms_ == 1) return 1;
  std::int64_t keys = 0;
  sampled_.for_each(target(i), [&](std::int64_t begin, std::int64_t end, std::int64_t of) {
    if (of == form) keys += end - begin;
  });
  return static_cast<double>(keys) / static_cast<double>(sampled_.count);
}

Trials::Trials(const FitLabelsArgs& a, const FitKeys& sampled, const TurnedQueries& queries, const FitRows& rows,
               std::int64_t head)
    : a_(a),
      sampled_(sampled),
      queries_(queries),
      rows_(rows),
      d_(a.head_dim),
      group_(a.q_heads / a.kv_heads),
      trials_(std::min(a.queries, kTrials)),
      lines_(trials_ * group_),
      turned_(queries.forms() * lines_ * d_ * size_of(a.act)),
      truth_(trials_ * rows.padded) {
  each_piece(trials_, group_, kLines, [&](std::int64_t first, std::int64_t n) {
    std::vector<float> turned(group_ * d_);
    for (std::int64_t form = 0; form < queries_.forms(); ++form)
      for (std::int64_t t = first; t < first + n; ++t) {
        queries_.read(index(t), head, form, turned.data());
        write_row(turned.data(), at(turned_.data(), a_.act, (form * lines_ + t * group_) * d_), a_.act, group_ * d_);
      }
    probabilities(
        first, n,
        [&](std::int64_t form, float* to) { score_keys(rows_, query(first * group_, form), n * group_, a_.scale, to); },
        &truth_[first * rows_.padded]);
  });
}

const std::byte* Trials::query(std::int64_t line, std::int64_t form) const {
  return at(turned_.data(), a_.act, (form * lines_ + line) * d_);
}

/// What label scores lack of an older form more than of a query's own.
float Trials::beside_more(std::int64_t line, std::int64_t form, const float* beside) const {
  std::vector<float> space(2 * d_);
  const float* older = read_row(query(line, form), a_.act, d_, &space[0]);
  const float* own = read_row(query(line, 0), a_.act, d_, &space[d_]);
  float more = 0;
  for (std::int64_t c = 0; c < d_; ++c) more += (older[c] - own[c]) * beside[c] * a_.scale;
  return more;
}

/// From scores of trials [first, first + n) to the group's combined probability of each key, as ordered keys.
template <class Score>
void Trials::probabilities(std::int64_t first, std::int64_t n, const Score& score, std::uint32_t* keys) const {
  thread_local Scratch scratch;
  const std::int64_t padded = rows_.padded, count = rows_.count;
  float *scores = scratch.get<float>(n * group_ * padded + group_), *factors = scores + n * group_ * padded;
  score_forms(
      sampled_, queries_.forms(), n * group_, padded, score,
      [&](std::int64_t i) { return position(first * group_ + i); }, scores);
  for (std::int64_t t = 0; t < n; ++t) {
    float* s = scores + t * group_ * padded;
    for (std::int64_t g = 0; g < group_; ++g) {
      const float top = simd().top_score(s + g * padded, count);
      factors[g] = 1 / (simd().exp_scores(s + g * padded, top, count) * static_cast<float>(group_));
    }
    simd().combine(s, padded, factors, group_, false, keys + t * padded, count);
  }
}

double Trials::kept(const Basis& basis, const KeyLabels& labels, const float* beside) const {
  const std::int64_t padded = rows_.padded, count = rows_.count;
  const auto share = static_cast<std::int64_t>(std::ceil(a_.share * static_cast<double>(count)));
  std::vector<double> kept(trials_);
  each_piece(trials_, group_, kLines, [&](std::int64_t first, std::int64_t n) {
    thread_local Scratch scratch;
    auto* keys = scratch.get<std::uint32_t>(n * padded + count);
    auto* rows = reinterpret_cast<std::int32_t*>(keys + n * padded);
    probabilities(
        first, n,
        [&](std::int64_t form, float* to) {
          score_labels(rows_, query(first * group_, form), n * group_, a_.scale, basis, labels, to);
          for (std::int64_t i = 0; form > 0 && i < n * group_; ++i) {
            const float more = beside_more(first * group_ + i, form, beside);
            for (std::int64_t key = 0; key < count; ++key) to[i * padded + key] += more;
          }
        },
        keys);
    for (std::int64_t t = 0; t < n; ++t) {
      TopRows top({.keys = keys + t * padded,
                   .first = 0,
                   .rows = count,
                   .chunk = count,
                   .lowest = 0,
                   .wanted = std::clamp<std::int64_t>(share, 1, count)});
      for (int digit = 0; digit < kKeyDigits; ++digit) top.count(0, digit), top.pick(digit);
      const std::int64_t chosen = top.place();
      top.emit(0, rows);
      const std::uint32_t* truth = &truth_[(first + t) * padded];
      for (std::int64_t i = 0; i < chosen; ++i) kept[first + t] += value_of_key(truth[rows[i]]);
    }
  });
  double sum = 0;
  for (const double x : kept) sum += x;
  return sum / static_cast<double>(trials_);
}

}  // namespace longhaul::cpu
