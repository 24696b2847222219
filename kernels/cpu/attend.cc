// attend: few tokens walk the rows in fixed blocks, so that tiles do not change a bit; many tokens use matrix products.
#include <algorithm>
#include <limits>

#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/block_scores.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kDecodeTokens = 16;

/// Rows of the tile that token t sees.
std::int64_t visible_rows(const AttendArgs& a, std::int64_t t) {
  return std::clamp<std::int64_t>(a.q_pos + t + 1 - a.kv.first, 0, a.kv.rows);
}

void clear(const AttendArgs& a, std::int64_t t, std::int64_t head, std::int64_t heads) {
  const std::int64_t i = t * a.q_heads + head;
  std::fill_n(a.state.o + i * a.head_dim, heads * a.head_dim, 0.0f);
  std::fill_n(a.state.m + i, heads, -std::numeric_limits<float>::infinity());
  std::fill_n(a.state.l + i, heads, 0.0f);
}

void decode(const AttendArgs& a) {
  const std::int64_t group = a.q_heads / a.kv_heads, d = a.head_dim;
  parallel_for(a.kv_heads * a.tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* space = scratch.get<float>(2 * group * d);
    float* q = space + group * d;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t h = i / a.tokens, t = i % a.tokens, state = t * a.q_heads + h * group;
      if (a.fresh) clear(a, t, h * group, group);
      const std::int64_t rows = visible_rows(a, t);
      if (rows == 0) continue;
      simd().scale(read_row(at(a.q, a.act, t * a.q_stride + h * group * d), a.act, group * d, space), a.scale, q,
                   group * d);
      const AttendRowsArgs args{.rows = a.kv.data + h * a.kv.head_stride,
                                .q = q,
                                .o = a.state.o + state * d,
                                .m = a.state.m + state,
                                .l = a.state.l + state,
                                .count = rows,
                                .heads = group,
                                .head_dim = d,
                                .block = kAttendBlock};
      a.act == DType::bf16 ? simd().attend_rows_bf16(args) : simd().attend_rows_f32(args);
    }
  });
}

/// Tokens [t0, t0 + tokens) of query head h against the whole tile.
void prefill_block(const AttendArgs& a, std::int64_t h, std::int64_t t0, std::int64_t tokens) {
  thread_local Scratch s_scratch, p_scratch;
  const std::int64_t d = a.head_dim;
  const bool narrow = a.act == DType::bf16;
  float* s = s_scratch.get<float>(kQueryBlock * kKeyBlock);
  void* p = narrow ? static_cast<void*>(p_scratch.get<bf16>(kQueryBlock * kKeyBlock)) : s;
  const std::byte* rows = a.kv.data + h / (a.q_heads / a.kv_heads) * a.kv.head_stride;
  float* o = a.state.o + (t0 * a.q_heads + h) * d;
  if (a.fresh)
    for (std::int64_t t = t0; t < t0 + tokens; ++t) clear(a, t, h, 1);
  const std::int64_t last = visible_rows(a, t0 + tokens - 1);
  for (std::int64_t k0 = 0, k1; k0 < last; k0 = k1) {
    k1 = std::min(round_down(a.kv.first + k0, kKeyBlock) + kKeyBlock - a.kv.first, last);
    const std::byte* k = at(rows, a.act, k0 * 2 * d);
    block_scores(a.act, at(a.q, a.act, t0 * a.q_stride + h * d), a.q_stride, k, d, tokens, k1 - k0, s);
    const SoftmaxArgs softmax{.s = s,
                              .s_stride = kKeyBlock,
                              .p = p,
                              .p_stride = kKeyBlock,
                              .m = a.state.m + t0 * a.q_heads + h,
                              .l = a.state.l + t0 * a.q_heads + h,
                              .ml_stride = a.q_heads,
                              .o = o,
                              .o_stride = a.q_heads * d,
                              .head_dim = d,
                              .rows = tokens,
                              .cols = k1 - k0,
                              .visible = a.q_pos + t0 + 1 - a.kv.first - k0,
                              .scale = a.scale};
    narrow ? simd().softmax_bf16(softmax) : simd().softmax_f32(softmax);
    gemm({.a = p,
          .a_type = a.act,
          .lda = kKeyBlock,
          .b = at(k, a.act, d),
          .b_type = a.act,
          .ldb = 2 * d,
          .b_transposed = false,
          .c = o,
          .ldc = a.q_heads * d,
          .accumulate = true,
          .m = tokens,
          .n = d,
          .k = k1 - k0});
  }
}

}  // namespace

void attend(const AttendArgs& a) {
  check(a.kv.first % kAttendBlock == 0 || a.kv.rows == 0, "attend: a tile starts on an attend block");
  check(a.head_dim % 8 == 0 && a.head_dim <= 256, "attend: head_dim is a multiple of 8 up to 256");
  if (a.tokens <= kDecodeTokens) return decode(a);
  const std::int64_t blocks = ceil_div(a.tokens, kQueryBlock);
  parallel_for(blocks * a.q_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t t = i / a.q_heads * kQueryBlock;
      prefill_block(a, i % a.q_heads, t, std::min(kQueryBlock, a.tokens - t));
    }
  });
}

}  // namespace longhaul::cpu
