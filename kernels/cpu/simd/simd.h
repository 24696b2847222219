// The vector loops: compiled once per instruction set, chosen when the program starts. Each works on rows in one
// thread; the operators around them cut the work. Files of this folder use no inline function from outside it, so that
// code for a wider instruction set cannot become the program's copy of a shared symbol.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/base/types.h"

namespace longhaul::cpu {

inline constexpr std::int64_t kMostLanes = 16;  // float32 in a vector of the widest set

/// Rows of one KV head as one token sees them. Accumulates into `heads` consecutive states.
struct AttendRowsArgs {
  const std::byte* rows;  // [count], row_bytes apart; row 0 starts an attend block
  const float* q;         // [heads, head_dim], times scale
  float* o;               // [heads, head_dim]
  float* m;               // [heads]
  float* l;               // [heads]
  std::int64_t count, row_bytes, heads, head_dim, block;
};

/// At most a block of rows that lie anywhere, as one token sees them.
struct ListedRowsArgs {
  const std::byte* const* rows;  // [count + ahead]; those ahead come in the next call
  const float* q;                // [heads, head_dim], times scale
  float* scores;                 // [heads, score_stride]
  std::int64_t score_stride;
  float *o, *m, *l;  // as AttendRowsArgs
  std::int64_t count, ahead, row_bytes, heads, head_dim;
};

/// Labels of up to 64 rows in float32: out[j][r] = map[j] . k[r].
struct ProjectArgs {
  const void* rows;     // [count], `stride` elements apart
  std::int64_t stride;  // elements
  const float* map;     // [dims, head_dim]
  float* out;           // [dims, 64]
  std::int64_t count, dims, head_dim;
};

/// Scores of whole blocks of 64 rows by their labels: the sum over dimensions of weight * code.
struct ScanArgs {
  const std::byte* codes;  // of the first block
  const float* weights;    // [heads, dims]
  float* out;              // [heads, out_stride]
  std::int64_t out_stride, blocks, heads, dims, bits;
};

/// One online-softmax step over a block of scores: p = exp(s - m'), and m, l, o moved to the new maximum m'.
struct SoftmaxArgs {
  float* s;               // [rows, cols] before scaling; clobbered
  std::int64_t s_stride;  // a multiple of 16, >= cols
  void* p;                // [rows, cols] bf16 or f32 (then it may be s); columns a row does not see become 0
  std::int64_t p_stride;  // as s_stride
  float *m, *l;           // [rows], ml_stride apart
  std::int64_t ml_stride;
  float* o;  // [rows, head_dim], o_stride apart
  std::int64_t o_stride, head_dim;
  std::int64_t rows, cols;
  std::int64_t visible;  // row i sees the first visible + i columns, cut to [0, cols]
  float scale;
  std::int64_t hidden = -(std::int64_t{1} << 62);  // but not the first hidden + i of them
};

/// Sums over rows of exp(scale * s - m) / l, a column each.
struct AddProbabilitiesArgs {
  const float* s;  // [rows, cols], readable to the next multiple of 16
  std::int64_t s_stride;
  const float *m, *l;  // [rows], ml_stride apart
  std::int64_t ml_stride;
  float* sums;  // [cols rounded up to 16] +=
  std::int64_t rows, cols;
  std::int64_t visible;  // as SoftmaxArgs
  float scale;
};

/// What is done with rows of one type.
struct RowLoops {
  void (*attend)(const AttendRowsArgs&);
  /// The scores of listed rows, and the online softmax and values of rows whose scores are there. The bits are those of
  /// attend.
  void (*score_listed)(const ListedRowsArgs&);
  void (*add_listed)(const ListedRowsArgs&);
};

struct Simd {
  const char* name;
  void (*widen)(const bf16* x, float* out, std::int64_t n);
  void (*narrow)(const float* x, bf16* out, std::int64_t n);
  /// x * rsqrt(mean(x^2) + eps), rounded to bf16 if asked, times gain.
  void (*rms_norm)(const float* x, const bf16* gain, float* out, std::int64_t n, float eps, bool round);
  void (*silu_mul)(const float* gate, const float* up, float* out, std::int64_t n);
  /// (x[i], x[i + half]) turned by the angle of (cosine[i], sine[i]), in place.
  void (*rotate)(float* x, const float* cosine, const float* sine, std::int64_t half);
  void (*scale)(const float* x, float factor, float* out, std::int64_t n);
  /// into = into * a + from * b.
  void (*blend)(float* into, float a, const float* from, float b, std::int64_t n);
  /// sums += x, sizes += factor * |x|.
  void (*add_sizes)(const float* x, float factor, float* sums, float* sizes, std::int64_t n);
  /// x in the order that dot_rows reads it.
  void (*split_pairs)(const float* x, float* out, std::int64_t n);
  /// out[t * out_stride + r] = w[r] . x[t], x after split_pairs; the bits of a result depend on its own row and token
  /// alone. sums: scratch of rows * tokens * kMostLanes.
  void (*dot_rows)(const bf16* w, std::int64_t rows, std::int64_t in, const float* x, std::int64_t tokens, float* out,
                   std::int64_t out_stride, float* sums);
  /// n codes of a group of packed weights (kernels/packed_format.h), n a multiple of 8: step * (code - zero) - base.
  void (*expand_4)(const std::byte* codes, std::int64_t n, float step, float zero, float base, bf16* out);
  void (*expand_8)(const std::byte* codes, std::int64_t n, float step, bf16* out);
  void (*expand_fp8)(const std::byte* codes, std::int64_t n, float step, bf16* out);
  const RowLoops *rows_bf16, *rows_f32, *rows_int8, *rows_fp8, *rows_int4;
  /// out[i] = w[i] . x; the bits of a result do not depend on `rows`.
  void (*dots)(const float* w, std::int64_t rows, std::int64_t n, const float* x, float* out);
  /// The bits of a row's label depend on the row alone.
  void (*project_bf16)(const ProjectArgs&);
  void (*project_f32)(const ProjectArgs&);
  /// codes[r] = round((x[r] - zero) / step), cut to [0, top]; of 64 rows. NaN gives 0.
  void (*encode)(const float* x, float zero, float step, float top, std::uint8_t* codes);
  void (*scan_labels)(const ScanArgs&);
  /// The highest of n >= 1 scores; those up to the next multiple of 16 become -inf.
  float (*top_score)(float* s, std::int64_t n);
  /// s = exp(s - top), of n scores rounded up to 16; the sum.
  float (*exp_scores)(float* s, float top, std::int64_t n);
  /// The sum, or the highest, of factor[h] * s[h] over heads, as integers of the same order (NaN: 0).
  void (*combine)(const float* s, std::int64_t stride, const float* factors, std::int64_t heads, bool highest,
                  std::uint32_t* keys, std::int64_t n);
  /// Writes first + i for each key >= lowest, in order; returns how many.
  std::int64_t (*keep_keys)(const std::uint32_t* keys, std::int64_t n, std::uint32_t lowest, std::int32_t first,
                            std::int32_t* out);
  /// Copies the keys of [lowest, lowest + span), in order; returns how many.
  std::int64_t (*copy_keys)(const std::uint32_t* keys, std::int64_t n, std::uint32_t lowest, std::uint32_t span,
                            std::uint32_t* out);
  void (*add_probabilities)(const AddProbabilitiesArgs&);
  void (*softmax_bf16)(const SoftmaxArgs&);
  void (*softmax_f32)(const SoftmaxArgs&);
};

/// The widest set this processor has, unless use_isa chose another.
const Simd& simd();

/// For tests: the sets this processor has, widest first (ended by null), and the choice of one.
const Simd* const* available_isas();
void use_isa(const Simd& isa);

}  // namespace longhaul::cpu
