// moments: sums over tokens for offline calibration.
#include <cmath>

#include "kernels/base/parallel.h"
#include "kernels/cpu/gram.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

void add_head(const MomentsArgs& a, std::int64_t h) {
  const std::int64_t d = a.head_dim, group = a.q_heads / a.kv_heads, width = (a.q_heads + 2 * a.kv_heads) * d;
  double* sums = a.sums + h * moment_doubles(d);
  const std::int64_t k_at = (a.q_heads + h) * d, q_at = h * group * d;
  add_gram({at(a.qkv, a.act, k_at), a.act, width, a.tokens, d}, nullptr, sums);
  for (std::int64_t g = 0; g < group; ++g)
    add_gram({at(a.qkv, a.act, q_at + g * d), a.act, width, a.tokens, d}, nullptr, sums + d * d);
  double *k_sum = sums + 2 * d * d, *k_abs = k_sum + d, *q_abs = k_abs + d, *qk_abs = q_abs + d;
  thread_local Scratch scratch;
  float* space = scratch.get<float>((group + 1) * d);
  for (std::int64_t t = 0; t < a.tokens; ++t) {
    const float* k = read_row(at(a.qkv, a.act, t * width + k_at), a.act, d, space);
    const float* q = read_row(at(a.qkv, a.act, t * width + q_at), a.act, group * d, space + d);
    for (std::int64_t i = 0; i < d; ++i) k_sum[i] += k[i], k_abs[i] += std::abs(k[i]);
    for (std::int64_t g = 0; g < group; ++g)
      for (std::int64_t i = 0; i < d; ++i)
        q_abs[i] += std::abs(q[g * d + i]), qk_abs[i] += std::abs(static_cast<double>(q[g * d + i]) * k[i]);
  }
  qk_abs[d] += static_cast<double>(a.tokens);
}

}  // namespace

void moments(const MomentsArgs& a) {
  parallel_for(a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t h = begin; h < end; ++h) add_head(a, h);
  });
}

}  // namespace longhaul::cpu
