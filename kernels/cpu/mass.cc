// add_list_mass, add_mass: the attention that each row has received.
#include <algorithm>
#include <limits>

#include "kernels/base/bytes.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/block_scores.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

/// The n-th list of the batch.
void add_one_list(const AddListMassArgs& a, std::int64_t n) {
  thread_local Scratch scratch;
  const std::int64_t group = a.q_heads / a.kv_heads, count = a.rows.count[n], padded = round_up(count, kMostLanes);
  const StepSpan& span = a.batch.spans[n / a.kv_heads];
  const std::int32_t* rows = a.rows.rows + n * a.rows.stride;
  float *sums = scratch.get<float>(2 * padded), *p = sums + padded;
  float* mass = a.mass + span.slot * a.mass_session_stride + n % a.kv_heads * a.mass_stride;
  std::fill_n(sums, count, 0.0f);
  for (std::int64_t g = n * group; g < (n + 1) * group; ++g) {
    std::copy_n(a.scores + g * a.rows.stride, count, p);
    std::fill(p + count, p + padded, 0.0f);
    simd().exp_scores(p, a.state.m[g], count);
    for (std::int64_t i = 0; i < count; ++i) sums[i] += p[i] / a.state.l[g];
  }
  std::int64_t next = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    std::fill(mass + next, mass + rows[i], -std::numeric_limits<float>::infinity());
    mass[rows[i]] += sums[i];
    next = rows[i] + 1;
  }
  std::fill(mass + next, mass + std::max<std::int64_t>(span.rows, next), -std::numeric_limits<float>::infinity());
}

/// The columns [k0, k0 + cols) of one KV head: no one else adds to them.
void add_columns(const AddMassArgs& a, std::int64_t h, std::int64_t k0, std::int64_t cols) {
  thread_local Scratch scratch, form_scratch;
  const std::int64_t d = a.head_dim, group = a.q_heads / a.kv_heads;
  float *s = scratch.get<float>((kQueryBlock + 1) * kKeyBlock), *sums = s + kQueryBlock * kKeyBlock;
  const std::byte* k = at(a.kv.data + h * a.kv.head_stride, a.act, k0 * 2 * d);
  float* mass = a.mass + h * a.mass_stride + a.kv.first + k0;
  for (std::int64_t g = h * group; g < (h + 1) * group; ++g)
    for (std::int64_t t0 = 0; t0 < a.tokens; t0 += kQueryBlock) {
      const std::int64_t tokens = std::min(kQueryBlock, a.tokens - t0);
      const std::int64_t visible = a.q_pos + t0 + 1 - a.kv.first - k0;  // of the first token
      if (visible + tokens - 1 <= 0) continue;
      form_scores(a, {.head = g, .t0 = t0, .tokens = tokens, .k = k, .first = a.kv.first + k0, .keys = cols}, s,
                  form_scratch);
      std::fill_n(sums, kKeyBlock, 0.0f);
      simd().add_probabilities({.s = s,
                                .s_stride = kKeyBlock,
                                .m = a.state.m + t0 * a.q_heads + g,
                                .l = a.state.l + t0 * a.q_heads + g,
                                .ml_stride = a.q_heads,
                                .sums = sums,
                                .rows = tokens,
                                .cols = cols,
                                .visible = visible,
                                .scale = a.scale});
      for (std::int64_t c = 0; c < cols; ++c) mass[c] += sums[c];
    }
}

}  // namespace

void add_list_mass(const AddListMassArgs& a) {
  parallel_for(a.batch.count * a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) add_one_list(a, n);
  });
}

void add_mass(const AddMassArgs& a) {
  check_forms(a.forms);
  const std::int64_t blocks = ceil_div(a.kv.rows, kKeyBlock);
  parallel_for(a.kv_heads * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t k0 = i % blocks * kKeyBlock;
      add_columns(a, i / blocks, k0, std::min(kKeyBlock, a.kv.rows - k0));
    }
  });
}

}  // namespace longhaul::cpu
