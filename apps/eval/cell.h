// The grid of an evaluation: policies with their shares and labels, one entry for each that differs.
#pragma once
#include <string>
#include <vector>

#include "offload/policy.h"

namespace longhaul::eval {

struct Grid {
  std::vector<std::string> policies, shares, label_dims, labels, kv_dtypes;
  std::vector<std::string> sets;  // KEY=VALUE of policies that select
};

/// A policy as it is evaluated: every row on the device, since where rows live changes no token.
struct Variant {
  KvPolicy policy;
  // As the table names them; "-" where the policy does not have it.
  std::string name, share, label_dims, labels;
};

/// Dense first, then all combinations that differ, in the order given. Throws UserError{usage}.
std::vector<Variant> make_variants(const Grid& grid);

/// Mean over layers and over the tokens after `first` to `last` rows of the share of rows that a token attends, from
/// the policy's budget.
double attended_share(const KvPolicy& policy, std::int64_t layers, std::int64_t rows);

}  // namespace longhaul::eval
