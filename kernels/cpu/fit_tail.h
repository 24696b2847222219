// What the tail that labels estimate is worth, query head by query head (tail_fit() of sparse_ops.h).
#pragma once
#include "kernels/cpu/fit_queries.h"
#include "kernels/cpu/key_labels.h"

namespace longhaul::cpu {

/// One KV head of a fit whose basis is chosen.
struct TailSample {
  const FitLabelsArgs& a;
  const KvTile& at_queries;  // keys of the rows that the queries stood at
  const FitKeys& sampled;
  std::int64_t head;
  const FitRows& rows;
  const Basis& basis;
  const KeyLabels& labels;
  const float* beside;  // of find_beside()
};

/// Writes `beside` [head_dim]: the mean key less what the labels' mean stands for. With its product, label scores have
/// the mean of true ones.
void find_beside(const FitRows& rows, const std::vector<double>& key_sums, const Basis& basis, const KeyLabels& labels,
                 float* beside);

/// Writes the `weights` of the group's query heads. A list with a mean value gives listed + share (mean - listed),
/// share = w tail / (1 + w tail); the weight is the w with which that comes nearest to the true outputs of queries
/// spread over the recent ones, where they stood, in the mean square: 0 where no tail is better than any, 1 for a given
/// basis, which has no queries.
void fit_tail(const TailSample& sample, float* weights);

}  // namespace longhaul::cpu
