// The operators' arguments: one POD each, shapes in trailing comments, row-major. Every pointer is device memory.
// `act` is the type of activations; a KvTile says how its rows are kept. Sums are in float32.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/packed_format.h"

namespace longhaul {

/// Rows are attended in blocks of this many, cut at absolute row numbers that are multiples of it. A tile that starts
/// on such a number leaves the same bits in the state whatever its length, as long as it ends on one too or is the
/// last.
inline constexpr std::int64_t kAttendBlock = 64;

/// linear gives a token the same bits whatever other tokens are in the call, as long as there are at most this many: so
/// a batch that decodes together equals single runs, and more sessions than this never do.
inline constexpr std::int64_t kDecodeTokens = 64;

/// A run of KV rows [first, first + rows) of every KV head. A row is K | V, kept as `type` says (row_format.h).
struct KvTile {
  std::byte* data;           // row `first` of KV head 0
  std::int64_t head_stride;  // bytes from a row of one KV head to the same row of the next
  std::int64_t first;        // absolute row number (= token position)
  std::int64_t rows;
  std::int64_t session_stride = 0;  // bytes from one session's rows to the next's, for operators that take a StepBatch
  RowType type = RowType::act;      // any in what a decode step writes and reads, act elsewhere
};

/// Labels of the rows of one session and layer: of every key `dims` coordinates in a small basis, each quantised with
/// its own zero and step, so that a row costs dims * bits / 8 bytes and nothing else (Double Sparsity, arXiv
/// 2408.07092, section 3.2; a choice of channels is the basis of unit vectors).
/// Codes lie in blocks of kAttendBlock rows, in a block dimension by dimension: a scan reads one run of memory and
/// works on many rows at once. Of a dimension's 64 codes byte i holds, with 4 bits, row i in its low half and row i +
/// 32 in its high half; with 8 bits row i; with 16 bits element i is row i. Codes of rows that have no label yet do not
/// matter. The coordinate that a code stands for is zero + step * code.
struct LabelTile {
  std::byte* codes = nullptr;    // [kv_heads, blocks, dims, kAttendBlock * bits / 8 bytes]
  std::int64_t head_stride = 0;  // bytes from a KV head's first block to the next head's
  float* basis = nullptr;  // [kv_heads, label_basis_floats]: key_map [dims, head_dim], query_map [dims, head_dim],
                           // zero [dims], step [dims]
  std::int64_t dims = 0, bits = 0;  // bits: 4 or 8 (codes), 16 (the coordinate as bf16; zero and step are not used)
  std::int64_t session_stride = 0;  // bytes of codes from one session's to the next's, for a StepBatch
  std::int64_t basis_stride = 0;    // floats of basis, likewise; even, for operators read pairs
};

constexpr std::int64_t label_basis_floats(std::int64_t dims, std::int64_t head_dim) {
  return 2 * dims * head_dim + 2 * dims;
}
constexpr std::int64_t label_block_bytes(std::int64_t dims, std::int64_t bits) {
  return dims * kAttendBlock * bits / 8;
}

/// One session's part in a decode step, in device memory: the operators of a step read it when they run, so that the
/// same launches serve every step, and a captured step can be replayed.
struct StepSpan {
  std::int32_t slot;                   // of the session
  std::int32_t rows;                   // of the session, the new one included: the token's position is rows - 1
  std::int32_t ring_first;             // rows from here on are in the recent ring; `rows` where there is none
  std::int32_t budget, sinks, window;  // of selection: rows in all, the first, the last; budget >= sinks + window
  std::int32_t host_first = 0;         // place in the host store of its first row there
};

/// The sessions that decode together. Of an operator's arrays, what lasts from step to step lies by slot, at
/// slot * its session stride; what belongs to the step (queries, outputs, lists, staging) lies by place in the batch.
struct StepBatch {
  const StepSpan* spans;  // [count]
  std::int64_t count;     // at most kDecodeTokens
  std::int64_t capacity;  // no span has more rows, in this step or a later one
};

/// Queries of dual-chunk attention (arXiv 2402.17463, section 3, as the Qwen2.5-1M models have it): rows lie in chunks
/// of `chunk`, and RoPE turns a key to its place in its chunk. So a query has three forms, turned to other positions
/// (RopeArgs), and each row is asked with the one for its chunk: the query's own, the one before, or an earlier one.
/// The first is the operator's `q`. In every layer and step each row has one form, so a score is still one product.
struct QueryForms {
  std::int64_t chunk = 0;        // a multiple of kChunkUnit; 0: plain attention, `q` asks all rows
  const void* older = nullptr;   // [2, tokens, q_heads, head_dim] act: for the chunk before, for all before that
  std::int64_t form_stride = 0;  // elements from the one form of a token to its other
};
/// Chunks are of whole units of this many rows: what an operator works on at once lies in one chunk.
inline constexpr std::int64_t kChunkUnit = 256;
/// Which form asks `row`, of the query at row `position`: 0 `q`, else older[form - 1].
constexpr std::int64_t query_form(std::int64_t row, std::int64_t position, std::int64_t chunk) {
  const std::int64_t age = chunk > 0 ? position / chunk - row / chunk : 0;
  return age < 2 ? age : 2;
}

/// Parts that an attention is cut into over its rows, at most: one for each thread block that a device holds at once,
/// and one more wherever a block goes from one (token, KV head) to the next.
constexpr std::int64_t kMostSplitBlocks = 1024;
constexpr std::int64_t most_parts(std::int64_t tokens, std::int64_t kv_heads) {
  return kMostSplitBlocks + tokens * kv_heads;
}
/// Room for two sets of them. The CPU device needs none.
constexpr std::int64_t split_floats(std::int64_t tokens, std::int64_t q_heads, std::int64_t kv_heads,
                                    std::int64_t head_dim) {
  return 2 * most_parts(tokens, kv_heads) * (q_heads / kv_heads) * (head_dim + 2);
}

/// Partial attention: o is not yet divided by l. Empty: m = -inf, l = 0, o = 0.
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

/// out = x * w^T + bias, plus what `out` holds when accumulate is set (the residual): one rounding.
struct LinearArgs {
  const void* x;               // [tokens, in] act
  const bf16* w;               // [out_dim, in]
  const bf16* bias = nullptr;  // [out_dim]; null: none
  void* out;                   // [tokens, out_dim] out_type
  DType act, out_type;
  bool accumulate;
  std::int64_t tokens, in, out_dim;
};

/// What packed rows stand for (packed_format.h).
struct ExpandArgs {
  const std::byte* packed;  // [rows, packed_row_bytes(format, cols)], on a multiple of 16 bytes
  bf16* out;                // [rows, cols]
  PackedFormat format;      // is_packable(format, cols)
  std::int64_t rows, cols;
};

/// Normalises each head of q and of k in place, as rms_norm does a row.
struct HeadNormArgs {
  void* qkv;           // [tokens, (q_heads + 2 * kv_heads) * head_dim] act; the v part is left alone
  const bf16* q_gain;  // [head_dim], of every head of q
  const bf16* k_gain;  // of k
  DType act;
  std::int64_t tokens, q_heads, kv_heads, head_dim;
  float eps;
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
  float scale;                    // multiplies cos and sin (1 but for some rope types)
  const float* scales = nullptr;  // [tokens] multiplies them, too; null: 1
  /// Not 0: dual-chunk attention. Keys, and q in place, are turned to position % chunk; from the same q, before it is
  /// turned, the other two forms are made (QueryForms): turned to min(position % chunk + chunk, reach), and to
  /// min(2 * chunk - 1, reach), whatever the position.
  std::int64_t chunk = 0, reach = 0;
  void* older = nullptr;         // [2, tokens, q_heads, head_dim] act, out
  std::int64_t form_stride = 0;  // elements
};

/// out = silu(gate) * up.
struct SiluMulArgs {
  const void* gate_up;  // [tokens, 2 * inter] act: gate | up
  void* out;            // [tokens, inter] act
  DType act;
  std::int64_t tokens, inter;
};

/// Which experts the tokens of a call go to. A token has `chosen` of them, a pair each, and every pair has a place:
/// those of an expert follow one another, tokens ascending, so that its products are of neighbouring rows. All of it is
/// device memory and stays there: the host knows how many pairs there are, not whose.
struct Routes {
  std::int32_t* expert;  // [tokens, chosen] by weight, the greatest first; of equals the lower number
  float* weight;         // [tokens, chosen]
  std::int32_t* place;   // [tokens, chosen]
  std::int32_t* token;   // [tokens * chosen], by place
  std::int32_t* begin;   // [experts + 1] the place of each expert's first pair, and their number
  std::int64_t experts, chosen;
};

/// A weight is the softmax over all experts; `normalised`: divided by the sum of the token's own.
struct RouteArgs {
  const float* logits;  // [tokens, experts]
  Routes routes;        // out
  bool normalised;
  std::int64_t tokens;
};

/// linear of the row at every place with the weights of the expert that the place belongs to.
struct ExpertLinearArgs {
  const void* x;  // [tokens, in] act, by token; or [tokens * chosen, in], by place
  bool by_token;
  const bf16* w;  // [experts, out_dim, in]
  void* out;      // [tokens * chosen, out_dim] act, by place
  Routes routes;
  DType act;
  std::int64_t tokens, in, out_dim;
};

/// out += a token's rows by their weights, in the order of its experts.
struct MixArgs {
  const void* x;  // [tokens * chosen, hidden] act, by place
  void* out;      // [tokens, hidden] act
  Routes routes;
  DType act;
  std::int64_t tokens, hidden;
};

/// Writes the k and v parts of `tokens` rows of qkv to the KV rows dst.first .. dst.first + tokens.
struct AppendArgs {
  const void* qkv;  // [tokens, (q_heads + 2 * kv_heads) * head_dim] act
  KvTile dst;       // dst.rows == tokens
  DType act;
  std::int64_t tokens, q_heads, kv_heads, head_dim;
};

/// The attention of `tokens` consecutive positions of one session over the rows of one tile, with which it begins and
/// ends; token t sees rows <= q_pos + t, and with a window rows > q_pos + t - window. FlashAttention's online softmax
/// (arXiv 2205.14135, section 3.1). kv.first is a multiple of kAttendBlock.
struct AttendArgs {
  const void* q;          // [tokens, q_heads, head_dim] act, after rope
  std::int64_t q_stride;  // elements from one token to the next
  KvTile kv;
  AttnState state;  // out: m and l, of any scale as long as exp(s - m) / l is the weight of score s; o is scratch
  void* out;        // [tokens, q_heads, head_dim] act: o / l; zeros for a token that sees no row
  DType act;
  std::int64_t tokens, q_heads, kv_heads, head_dim;  // q head h reads KV head h / (q_heads / kv_heads)
  std::int64_t q_pos;                                // absolute position of token 0
  float scale;                                       // of q.k, usually head_dim^-1/2
  std::int64_t window = 0;                           // 0: none
  QueryForms forms = {};
};

/// Writes the k and v parts of each span's token to its row, in the resident prefix or in the recent ring, and the
/// row's label.
struct AppendStepArgs {
  const void* qkv;  // [batch.count, (q_heads + 2 * kv_heads) * head_dim] act, after rope
  DType act;
  StepBatch batch;
  KvTile prefix;     // by slot; rows [0, prefix.rows)
  KvTile ring;       // by slot; row r >= prefix.rows at place r % ring.rows
  LabelTile labels;  // codes null: none
  std::int64_t q_heads, kv_heads, head_dim;
};

enum class StepRows : std::uint8_t { tile, ring };

/// Adds rows to the attention of each span's token: of a tile its rows before `rows`, row r at place r - kv.first; of
/// the ring rows [ring_first, rows), row r at place r % kv.rows. Blocks of kAttendBlock rows as in attend. With a
/// window the ring holds all that a token sees: its last `window` rows, whatever ring_first is.
struct AttendStepArgs {
  const void* q;          // [batch.count, q_heads, head_dim] act, after rope
  std::int64_t q_stride;  // elements from one token to the next
  StepBatch batch;
  KvTile kv;  // by slot
  StepRows from;
  AttnState state;
  float* splits;  // split_floats(batch.count, ...)
  bool fresh;     // start from the empty state, whatever `state` holds
  DType act;
  std::int64_t q_heads, kv_heads, head_dim;
  float scale;
  std::int64_t window = 0;  // 0: none; else from the ring, which has as many rows or more
  QueryForms forms = {};
};

/// The first row that a token attends of the ring.
constexpr std::int32_t first_of_ring(const StepSpan& span, std::int64_t window) {
  if (window == 0) return span.ring_first;
  return span.rows > window ? span.rows - static_cast<std::int32_t>(window) : 0;
}

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
  std::int32_t top_k = 0;        // 0: all
  float repetition_penalty = 1;  // of tokens that the prompt and the answer so far have; 1: none
  std::uint64_t seed = 0;
  std::uint64_t step = 0;   // index of the token in its answer; with the seed it fixes the draw
  std::int32_t slot = 0;    // whose tokens SampleArgs::seen has
  std::int32_t newest = 0;  // the last token so far, which joins them
};

/// 32-bit words of a bit for each id.
constexpr std::int64_t seen_words(std::int64_t vocab) { return (vocab + 31) / 32; }

/// One token a row. The penalty first, then top_k, then top_p over what is left, then the draw. A row that holds NaN or
/// no finite logit gives -1. A row without a penalty neither reads nor writes `seen`; one with a penalty has it in its
/// logits afterwards. No two rows of a call with a penalty have one slot.
struct SampleArgs {
  float* logits;               // [tokens, vocab]
  const SampleParams* params;  // [tokens]
  std::int32_t* out;           // [tokens]
  std::int64_t tokens, vocab;
  std::uint32_t* seen = nullptr;  // [slots, seen_words(vocab)] bit i % 32 of word i / 32 for id i; 0 past the last id
};

}  // namespace longhaul
