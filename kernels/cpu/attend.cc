// attend, attend_step: few tokens walk the rows in fixed blocks, so that tiles do not change a bit; many tokens use
// matrix products.
#include <algorithm>
#include <limits>

#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/block_scores.h"
#include "kernels/cpu/lists.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/query_forms.h"
#include "kernels/cpu/row_codes.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kFewTokens = 16;

/// Rows of the tile that token t sees.
std::int64_t visible_rows(const AttendArgs& a, std::int64_t t) {
  return std::clamp<std::int64_t>(a.q_pos + t + 1 - a.kv.first, 0, a.kv.rows);
}

/// Those of them that lie before its window.
std::int64_t hidden_rows(const AttendArgs& a, std::int64_t t) {
  return a.window == 0 ? 0 : std::clamp<std::int64_t>(a.q_pos + t + 1 - a.window - a.kv.first, 0, a.kv.rows);
}

/// `heads` heads from the i-th (token, head) on become empty.
void clear(const AttnState& state, std::int64_t i, std::int64_t heads, std::int64_t head_dim) {
  std::fill_n(state.o + i * head_dim, heads * head_dim, 0.0f);
  std::fill_n(state.m + i, heads, -std::numeric_limits<float>::infinity());
  std::fill_n(state.l + i, heads, 0.0f);
}

/// One token's queries of one KV head's group, in every form that it asks with.
class GroupQueries {
 public:
  template <class Args>
  GroupQueries(const Args& a, std::int64_t t, std::int64_t position, std::int64_t h, Scratch& scratch)
      : loops_(row_loops(a.kv.type, a.act)),
        row_bytes_(row_bytes(a.kv.type, a.head_dim, a.act)),
        heads_(a.q_heads / a.kv_heads),
        d_(a.head_dim),
        position_(position),
        chunk_(a.forms.chunk),
        q_(scratch.get<float>((forms_at(position, chunk_) + 1) * heads_ * d_)) {
    const std::int64_t n = heads_ * d_, i = t * a.q_heads + h * heads_, forms = forms_at(position, chunk_);
    for (std::int64_t form = 0; form < forms; ++form)
      simd().scale(read_row(query_at(a, form, t, h * heads_), a.act, n, q_ + forms * n), a.scale, q_ + form * n, n);
    state_ = {a.state.o + i * d_, a.state.m + i, a.state.l + i};
  }

  /// Adds rows [first, last) in blocks that end at multiples of kAttendBlock. `rows` is where row `origin`, such a
  /// multiple, is or would be.
  void add(const std::byte* rows, std::int64_t origin, std::int64_t first, std::int64_t last) const {
    for_each_form(first, last, position_, chunk_, [&](std::int64_t begin, std::int64_t end, std::int64_t form) {
      const std::int64_t cut = std::min(round_up(begin, kAttendBlock), end);
      add_blocks(rows + (begin - origin) * row_bytes_, cut - begin, form);
      add_blocks(rows + (cut - origin) * row_bytes_, end - cut, form);
    });
  }

 private:
  void add_blocks(const std::byte* rows, std::int64_t count, std::int64_t form) const {
    if (count <= 0) return;
    loops_.attend({.rows = rows,
                   .q = q_ + form * heads_ * d_,
                   .o = state_.o,
                   .m = state_.m,
                   .l = state_.l,
                   .count = count,
                   .row_bytes = row_bytes_,
                   .heads = heads_,
                   .head_dim = d_,
                   .block = kAttendBlock});
  }

  const RowLoops& loops_;
  std::int64_t row_bytes_, heads_, d_, position_, chunk_;
  float* q_;  // [forms, heads, d], times scale
  AttnState state_;
};

void attend_few(const AttendArgs& a) {
  parallel_for(a.kv_heads * a.tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t h = i / a.tokens, t = i % a.tokens, group = a.q_heads / a.kv_heads;
      clear(a.state, t * a.q_heads + h * group, group, a.head_dim);
      GroupQueries(a, t, a.q_pos + t, h, scratch)
          .add(a.kv.data + h * a.kv.head_stride, a.kv.first, a.kv.first + hidden_rows(a, t),
               a.kv.first + visible_rows(a, t));
    }
  });
}

/// Tokens [t0, t0 + tokens) of query head h against the whole tile.
void prefill_block(const AttendArgs& a, std::int64_t h, std::int64_t t0, std::int64_t tokens) {
  thread_local Scratch s_scratch, p_scratch, form_scratch;
  const std::int64_t d = a.head_dim;
  const bool narrow = a.act == DType::bf16;
  float* s = s_scratch.get<float>(kQueryBlock * kKeyBlock);
  void* p = narrow ? static_cast<void*>(p_scratch.get<bf16>(kQueryBlock * kKeyBlock)) : s;
  const std::byte* rows = a.kv.data + h / (a.q_heads / a.kv_heads) * a.kv.head_stride;
  float* o = a.state.o + (t0 * a.q_heads + h) * d;
  for (std::int64_t t = t0; t < t0 + tokens; ++t) clear(a.state, t * a.q_heads + h, 1, d);
  const std::int64_t last = visible_rows(a, t0 + tokens - 1);
  for (std::int64_t k0 = round_down(hidden_rows(a, t0), kAttendBlock), k1; k0 < last; k0 = k1) {
    k1 = std::min(round_down(a.kv.first + k0, kKeyBlock) + kKeyBlock - a.kv.first, last);
    const std::byte* k = at(rows, a.act, k0 * 2 * d);
    form_scores(a, {.head = h, .t0 = t0, .tokens = tokens, .k = k, .first = a.kv.first + k0, .keys = k1 - k0}, s,
                form_scratch);
    SoftmaxArgs softmax{.s = s,
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
    if (a.window > 0) softmax.hidden = softmax.visible - a.window;
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

void attend_many(const AttendArgs& a) {
  const std::int64_t blocks = ceil_div(a.tokens, kQueryBlock);
  parallel_for(blocks * a.q_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t t = i / a.q_heads * kQueryBlock;
      prefill_block(a, i % a.q_heads, t, std::min(kQueryBlock, a.tokens - t));
    }
  });
}

template <class Args>
void check_attend(const Args& a) {
  check(a.kv.first % kAttendBlock == 0 || a.kv.rows == 0, "attend: a tile starts on an attend block");
  check(a.head_dim % 8 == 0 && a.head_dim <= 256, "attend: head_dim is a multiple of 8 up to 256");
  check_forms(a.forms);
}

}  // namespace

void attend(const AttendArgs& a) {
  check_attend(a);
  check(a.kv.type == RowType::act, "attend: a prompt attends activations' rows");
  a.tokens <= kFewTokens ? attend_few(a) : attend_many(a);
  finish({a.state, a.out, a.act, a.tokens, a.q_heads, a.head_dim});
}

void attend_step(const AttendStepArgs& a) {
  check_attend(a);
  check(a.window == 0 || (a.from == StepRows::ring && a.window <= a.kv.rows), "attend_step: the ring holds the window");
  if (a.fresh) clear(a.state, 0, a.batch.count * a.q_heads, a.head_dim);
  parallel_for(a.kv_heads * a.batch.count, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t h = i / a.batch.count, t = i % a.batch.count;
      const StepSpan& span = a.batch.spans[t];
      const std::byte* rows = tile_of(a.kv, span.slot).data + h * a.kv.head_stride;
      const GroupQueries queries(a, t, span.rows - 1, h, scratch);
      if (a.from == StepRows::tile) {
        queries.add(rows, a.kv.first, a.kv.first, std::min<std::int64_t>(span.rows, a.kv.first + a.kv.rows));
        continue;
      }
      for (std::int64_t r = first_of_ring(span, a.window), next; r < span.rows; r = next) {
        const std::int64_t turn = round_down(r, a.kv.rows);
        next = std::min<std::int64_t>(turn + a.kv.rows, span.rows);
        queries.add(rows, turn, r, next);
      }
    }
  });
}

}  // namespace longhaul::cpu
