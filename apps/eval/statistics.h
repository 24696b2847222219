// Scores of paired items, and how sure their difference is.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "apps/eval/document.h"

namespace longhaul::eval {

struct Interval {
  double low, high;
};

struct Comparison {
  double score, difference, ratio;  // of a variant; against dense
  Interval difference_95, ratio_95;
};

/// Sum of sums over sum of weights; exp of it for perplexity.
double score_of(const std::vector<Item>& items, bool perplexity);

/// Both on the same items in the same order. The intervals are the middle 95 % of a seeded bootstrap over items.
Comparison compare(const std::vector<Item>& dense, const std::vector<Item>& items, bool perplexity, std::int64_t seed);

}  // namespace longhaul::eval
