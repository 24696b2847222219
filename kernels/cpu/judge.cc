// judge: how much of the exact attention a list of rows keeps. For evaluation; not on the path of a token.
#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/base/bytes.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/lists.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/query_forms.h"
#include "kernels/cpu/row_codes.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/top_rows.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kChunk = 8192;

/// The exact scores of the group's heads over all rows of span t, [group, stride]. A block of rows has one form.
std::vector<float> exact_scores(const JudgeArgs& a, std::int64_t t, std::int64_t h, std::int64_t stride) {
  const std::int64_t group = a.q_heads / a.kv_heads, d = a.head_dim, bytes = row_bytes(a.kv.type, d, a.act);
  const StepSpan& span = a.batch.spans[t];
  const std::int64_t position = span.rows - 1, forms = forms_at(position, a.forms.chunk);
  std::vector<float> scores(group * stride), q(forms * group * d), space(group * d);
  for (std::int64_t form = 0; form < forms; ++form)
    simd().scale(read_row(query_at(a, form, t, h * group), a.act, group * d, space.data()), a.scale,
                 &q[form * group * d], group * d);
  const std::byte* data = tile_of(a.kv, span.slot).data + h * a.kv.head_stride;
  parallel_for(ceil_div(span.rows, kAttendBlock), 8, [&](std::int64_t begin, std::int64_t end) {
    const std::byte* rows[kAttendBlock];
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t first = b * kAttendBlock, n = std::min(kAttendBlock, span.rows - first);
      for (std::int64_t r = 0; r < n; ++r) rows[r] = data + (first + r) * bytes;
      row_loops(a.kv.type, a.act)
          .score_listed({.rows = rows,
                         .q = &q[query_form(first, position, a.forms.chunk) * group * d],
                         .scores = scores.data() + first,
                         .score_stride = stride,
                         .count = n,
                         .ahead = 0,
                         .row_bytes = bytes,
                         .heads = group,
                         .head_dim = d});
    }
  });
  return scores;
}

SelectionQuality judge_list(const JudgeArgs& a, std::int64_t t, std::int64_t h) {
  const std::int64_t group = a.q_heads / a.kv_heads, n = a.batch.spans[t].rows, stride = round_up(n, kAttendBlock);
  std::vector<float> scores = exact_scores(a, t, h, stride), factors(group);
  for (std::int64_t g = 0; g < group; ++g) {
    float* s = &scores[g * stride];
    const float top = simd().top_score(s, n);
    double total = 0;
    for (std::int64_t c = 0; c < n; c += kChunk) total += simd().exp_scores(s + c, top, std::min(kChunk, n - c));
    factors[g] = static_cast<float>(1 / (total * static_cast<double>(group)));
  }
  std::vector<std::uint32_t> keys(stride);
  simd().combine(scores.data(), stride, factors.data(), group, false, keys.data(), n);

  const RowList list = list_of(a.rows, t * a.kv_heads + h);
  const std::int64_t count = *list.count;
  const std::int32_t* listed = list.rows;
  TopRows top({.keys = keys.data(), .first = 0, .rows = n, .chunk = n, .lowest = 0, .wanted = count});
  for (int digit = 0; digit < kKeyDigits; ++digit) top.count(0, digit), top.pick(digit);
  std::vector<std::int32_t> best(top.place()), both;
  top.emit(0, best.data());
  std::set_intersection(best.begin(), best.end(), listed, listed + count, std::back_inserter(both));
  auto mass = [&](const std::int32_t* rows, std::size_t some) {
    return static_cast<float>(std::accumulate(rows, rows + some, 0.0,
                                              [&](double sum, std::int32_t r) { return sum + value_of_key(keys[r]); }));
  };
  return {mass(listed, count), mass(best.data(), best.size()),
          count == 0 ? 1.0f : static_cast<float>(both.size()) / static_cast<float>(count)};
}

}  // namespace

void judge(const JudgeArgs& a) {
  check_forms(a.forms);
  parallel_for(a.batch.count * a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t t = i / a.kv_heads, h = i % a.kv_heads;
      a.out[t * a.out_stride + h] = judge_list(a, t, h);
    }
  });
}

}  // namespace longhaul::cpu
