// Queries of a fit where decoding will be, and what candidates for a basis keep of their attention.
#pragma once
#include <vector>

#include "kernels/cpu/fit_queries.h"
#include "kernels/cpu/key_labels.h"

namespace longhaul::cpu {

/// The queries, turned from where they stood to positions of [target, target + targets).
class TurnedQueries {
 public:
  TurnedQueries(const FitLabelsArgs& a, const FitKeys& sampled);

  std::int64_t forms() const { return forms_; }
  /// Where the i-th is turned to: positions all over the range, near queries to distant ones.
  std::int64_t target(std::int64_t i) const;
  /// The i-th queries of a KV head's group in one form, [group, head_dim].
  void read(std::int64_t i, std::int64_t head, std::int64_t form, float* to) const;
  /// The share of the keys that the i-th asks with this form: 1 where there is no other.
  double share(std::int64_t i, std::int64_t form) const;

 private:
  const FitLabelsArgs& a_;
  const FitKeys& sampled_;
  std::int64_t forms_;
  std::vector<float> turns_;  // [forms, queries, head_dim] as fill_turn() has it; none for a given basis
};

/// A few queries of one KV head, and what they attend to in truth.
class Trials {
 public:
  Trials(const FitLabelsArgs& a, const FitKeys& sampled, const TurnedQueries& queries, const FitRows& rows,
         std::int64_t head);

  /// The share of their attention that goes to the keys which their labels choose; what label scores lack of an older
  /// form more than of a query's own is added, as select() does it.
  double kept(const Basis& basis, const KeyLabels& keys, const float* beside) const;

 private:
  template <class Score>
  void probabilities(std::int64_t first, std::int64_t n, const Score& score, std::uint32_t* keys) const;
  const std::byte* query(std::int64_t line, std::int64_t form) const;
  std::int64_t position(std::int64_t line) const { return queries_.target(index(line / group_)); }
  std::int64_t index(std::int64_t t) const { return (2 * t + 1) * a_.queries / (2 * trials_); }
  float beside_more(std::int64_t line, std::int64_t form, const float* beside) const;

  const FitLabelsArgs& a_;
  const FitKeys& sampled_;
  const TurnedQueries& queries_;
  const FitRows& rows_;
  std::int64_t d_, group_, trials_, lines_;  // a line: a query head of a trial
  std::vector<std::byte> turned_;            // [forms, lines, d] activations
  std::vector<std::uint32_t> truth_;         // [trials, padded] the group's combined probabilities as ordered keys
};

}  // namespace longhaul::cpu
