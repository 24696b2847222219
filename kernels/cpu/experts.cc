// route, expert_linear, mix: a mixture of experts. Each expert's rows are one call of linear, so that a token's bits
// are those it would have alone.
#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

/// The experts of one token and their weights; whatever the logits are, no expert twice.
void choose(const float* logits, const RouteArgs& a, std::int32_t* expert, float* weight) {
  const Routes& r = a.routes;
  const float top = *std::max_element(logits, logits + r.experts);
  float all = 0, own = 0;
  for (std::int64_t e = 0; e < r.experts; ++e) all += std::exp(logits[e] - top);
  for (std::int64_t i = 0; i < r.chosen; ++i) {
    std::int32_t best = -1;
    for (std::int32_t e = 0; e < r.experts; ++e)
      if (std::find(expert, expert + i, e) == expert + i && (best < 0 || logits[e] > logits[best])) best = e;
    expert[i] = best;
    weight[i] = std::exp(logits[best] - top) / all;
    own += weight[i];
  }
  if (a.normalised)
    for (std::int64_t i = 0; i < r.chosen; ++i) weight[i] /= own;
}

}  // namespace

void route(const RouteArgs& a) {
  const Routes& r = a.routes;
  check(r.chosen >= 1 && r.chosen <= r.experts, "route: a token has at least one expert, and none twice");
  parallel_for(a.tokens, row_grain(r.experts * r.chosen), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      choose(a.logits + t * r.experts, a, r.expert + t * r.chosen, r.weight + t * r.chosen);
  });
  const std::int64_t pairs = a.tokens * r.chosen;
  std::fill_n(r.begin, r.experts + 1, 0);
  for (std::int64_t i = 0; i < pairs; ++i) ++r.begin[r.expert[i] + 1];
  for (std::int64_t e = 0; e < r.experts; ++e) r.begin[e + 1] += r.begin[e];
  thread_local Scratch scratch;
  std::int32_t* next = scratch.get<std::int32_t>(r.experts);
  std::copy_n(r.begin, r.experts, next);
  for (std::int64_t i = 0; i < pairs; ++i) {
    r.place[i] = next[r.expert[i]]++;
    r.token[r.place[i]] = static_cast<std::int32_t>(i / r.chosen);
  }
}

void expert_linear(const ExpertLinearArgs& a) {
  const Routes& r = a.routes;
  const std::int64_t row = a.in * size_of(a.act);
  thread_local Scratch scratch;
  for (std::int64_t e = 0; e < r.experts; ++e) {
    const std::int64_t first = r.begin[e], rows = r.begin[e + 1] - first;
    if (rows == 0) continue;
    const std::byte* x = at(a.x, a.act, first * a.in);
    if (a.by_token) {
      auto* gathered = scratch.get<std::byte>(rows * row);
      for (std::int64_t i = 0; i < rows; ++i)
        std::memcpy(gathered + i * row, at(a.x, a.act, r.token[first + i] * a.in), row);
      x = gathered;
    }
    linear({.x = x,
            .w = a.w + e * a.out_dim * a.in,
            .out = at(a.out, a.act, first * a.out_dim),
            .act = a.act,
            .out_type = a.act,
            .accumulate = false,
            .tokens = rows,
            .in = a.in,
            .out_dim = a.out_dim});
  }
}

void mix(const MixArgs& a) {
  const Routes& r = a.routes;
  parallel_for(a.tokens, row_grain(a.hidden * r.chosen), [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* space = scratch.get<float>(2 * a.hidden);
    float* sum = space + a.hidden;
    for (std::int64_t t = begin; t < end; ++t) {
      std::fill_n(sum, a.hidden, 0.0f);
      for (std::int64_t i = t * r.chosen; i < (t + 1) * r.chosen; ++i)
        simd().blend(sum, 1.0f, read_row(at(a.x, a.act, r.place[i] * a.hidden), a.act, a.hidden, space), r.weight[i],
                     a.hidden);
      void* out = at(a.out, a.act, t * a.hidden);
      simd().blend(sum, 1.0f, read_row(out, a.act, a.hidden, space), 1.0f, a.hidden);
      write_row(sum, out, a.act, a.hidden);
    }
  });
}

}  // namespace longhaul::cpu
