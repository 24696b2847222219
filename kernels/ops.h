// The operators' arguments: one POD each, shapes in trailing comments, row-major. Every pointer is device memory.
// `act` is the type of activations and KV rows. Sums are in float32.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/base/types.h"

namespace longhaul {

/// Rows are attended in blocks of this many, cut at absolute row numbers that are multiples of it. A tile that starts
/// on such a number leaves the same bits in the state whatever its length, as long as it ends on one too or is the
/// last.
inline constexpr std::int64_t kAttendBlock = 64;

/// linear gives a token the same bits whatever other tokens are in the call, as long as there are at most this many: so
/// a batch that decodes together equals single runs, and more sessions than this never do.
inline constexpr std::int64_t kDecodeTokens = 64;

/// A run of KV rows [first, first + rows) of every KV head. A row is K | V, 2 * head_dim elements.
struct KvTile {
  std::byte* data;           // row `first` of KV head 0
  std::int64_t head_stride;  // bytes from a row of one KV head to the same row of the next
  std::int64_t first;        // absolute row number (= token position)
  std::int64_t rows;
};

/// Partial attention, mergeable: o is not yet divided by l. Empty: m = -inf, l = 0, o = 0.
struct AttnState {
  float* o;  // [tokens, q_heads, head_dim]  sum of exp(s - m) * v
  float* m;  // [tokens, q_heads]            running maximum of the scaled scores
  float* l;  // [tokens, q_heads]            sum of exp(s - m)
};

struct EmbedArgs {
  const std::int32_t* ids;  // [tokens], each in [0, vocab)
  const bf16* table;        // [vocab, hidden]
  void* out;                // [tokens, hidden] act
  DType act;
  std::int64_t tokens, hidden, vocab;
};

struct RmsNormArgs {
  const void* x;     // [tokens, hidden] act
  const bf16* gain;  // [hidden]
  void* out;         // [tokens, hidden] act
  DType act;
  std::int64_t tokens, hidden;
  float eps;
};

/// out = x * w^T, plus what `out` holds when accumulate is set (the residual).
struct LinearArgs {
  const void* x;  // [tokens, in] act
  const bf16* w;  // [out_dim, in]
  void* out;      // [tokens, out_dim] out_type
  DType act, out_type;
  bool accumulate;
  std::int64_t tokens, in, out_dim;
};

/// Rotates q and k in place, half-split order: element i pairs with i + head_dim / 2.
/// Angle = float(position) * inv_freq, in float32 as the reference implementations have it.
struct RopeArgs {
  void* qkv;                      // [tokens, (q_heads + 2 * kv_heads) * head_dim] act; the v part is left alone
  const std::int32_t* positions;  // [tokens]
  const float* inv_freq;          // [1 or tokens, head_dim / 2]
  std::int64_t freq_stride;       // 0: one table for all tokens; head_dim / 2: a table per token
  DType act;
  std::int64_t tokens, q_heads, kv_heads, head_dim;
  float scale;  // multiplies cos and sin (1 but for some rope types)
};

/// out = silu(gate) * up.
struct SiluMulArgs {
  const void* gate_up;  // [tokens, 2 * inter] act: gate | up
  void* out;            // [tokens, inter] act
  DType act;
  std::int64_t tokens, inter;
};

/// Writes the k and v parts of `tokens` rows of qkv to the KV rows dst.first .. dst.first + tokens.
struct AppendArgs {
  const void* qkv;  // [tokens, (q_heads + 2 * kv_heads) * head_dim] act
  KvTile dst;       // dst.rows == tokens
  DType act;
  std::int64_t tokens, q_heads, kv_heads, head_dim;
};

/// Adds one tile to the attention of `tokens` consecutive positions; token t sees rows <= q_pos + t.
/// FlashAttention's online softmax (arXiv 2205.14135, section 3.1). kv.first is a multiple of kAttendBlock.
struct AttendArgs {
  const void* q;          // [tokens, q_heads, head_dim] act, after rope
  std::int64_t q_stride;  // elements from one token to the next
  KvTile kv;
  AttnState state;
  bool fresh;  // start from the empty state, whatever `state` holds
  DType act;
  std::int64_t tokens, q_heads, kv_heads, head_dim;  // q head h reads KV head h / (q_heads / kv_heads)
  std::int64_t q_pos;                                // absolute position of token 0
  float scale;                                       // of q.k, usually head_dim^-1/2
};

/// into = into + from, by log-sum-exp.
struct MergeArgs {
  AttnState into, from;
  std::int64_t tokens, heads, head_dim;
};

/// out = o / l; an empty state gives zeros.
struct FinishArgs {
  AttnState state;
  void* out;  // [tokens, heads, head_dim] act
  DType act;
  std::int64_t tokens, heads, head_dim;
};

struct SampleParams {
  float temperature = 0;  // 0: greedy (the lowest id among equals)
  float top_p = 1;
  std::int32_t top_k = 0;  // 0: all
  std::uint64_t seed = 0;
  std::uint64_t step = 0;  // index of the token in its answer; with the seed it fixes the draw
};

/// One token a row. top_k, then top_p over what is left, then the draw. A row that holds NaN or no finite logit gives
/// -1.
struct SampleArgs {
  const float* logits;         // [tokens, vocab]
  const SampleParams* params;  // [tokens]
  std::int32_t* out;           // [tokens]
  std::int64_t tokens, vocab;
};

}  // namespace longhaul
