// Bases of labels from second moments of a head's queries and keys. Small matrices in double precision, over Eigen.
#pragma once
#include <cstdint>

namespace longhaul::cpu {

/// Second moments of one KV head: q of its group's queries, k of its keys less their mean; [d, d] each, of any scale.
struct HeadMoments {
  const double *q, *k;
  std::int64_t d;
};

/// The maps [dims, d] whose product query_map^T key_map leaves the smallest mean square of q.k - label(q).label(k) over
/// independent q and k: a truncated singular value decomposition of the roots of the moments. Labels vary about equally
/// in every dimension, keys' as queries', so that codes of one width suit all. False, and nothing is written, where the
/// moments do not have it.
bool best_basis(const HeadMoments& moments, std::int64_t dims, float* key_map, float* query_map);

/// Unit vectors on the `dims` channels of the highest worth [d]; equals from the lowest.
void channel_basis(const double* worth, std::int64_t d, std::int64_t dims, float* key_map, float* query_map);

}  // namespace longhaul::cpu
