// The operators of label-selected attention: labels, selection, lists of rows, attention over listed rows, and what
// accuracy is measured with. Conventions as in ops.h. Row lists stay on the device: the host never sees one.
#pragma once
#include "kernels/ops.h"

namespace longhaul {

/// A list of row numbers for each KV head, ascending, in device memory.
struct RowList {
  std::int32_t* rows = nullptr;   // [kv_heads, stride]
  std::int32_t* count = nullptr;  // [kv_heads]
  std::int64_t stride = 0;
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
};

constexpr std::int64_t label_basis_floats(std::int64_t dims, std::int64_t head_dim) {
  return 2 * dims * head_dim + 2 * dims;
}
constexpr std::int64_t label_block_bytes(std::int64_t dims, std::int64_t bits) {
  return dims * kAttendBlock * bits / 8;
}

/// What the basis of a layer's labels is made from: the queries and keys that fit_labels is given, head by head.
enum class LabelFit : std::uint8_t {
  given,     // key_map and query_map are already in the tile; only zero and step are fitted
  document,  // of the candidates moments, rms and abs the one that keeps the most attention mass for these queries
  moments,   // the rank-r factorisation that is best for these queries and keys in the mean square
  q,         // single channels, the first of a ranking: by mean |q|,
  k,         // by mean |k|,
  qk,        // by mean |q k| at the same position,
  abs,       // by mean |q| times mean |k|,
  rms,       // by RMS of q times RMS of centred k,
  pairs,     // the same, summed over the two channels that RoPE turns together
};

/// Fits the basis of a layer's labels to its own keys and recent queries, and zero and step to the range of its keys.
/// Queries are turned by RoPE from where they stood to positions of [target, target + targets), which decoding will
/// use. Of more than 4,096 keys as many, evenly spread, stand for all. Whatever the keys are, the basis is finite.
struct FitLabelsArgs {
  KvTile kv;              // rows [0, kv.rows), all of the prompt
  const void* q;          // [queries, q_heads * head_dim] act, after rope
  std::int64_t queries;   // 0 allowed with LabelFit::given only
  std::int64_t q_pos;     // position of the first query
  const float* inv_freq;  // [head_dim / 2]
  std::int64_t target, targets;
  LabelTile labels;
  LabelFit fit;
  double share;  // of the rows that a query will attend; candidates are compared at it
  DType act;
  std::int64_t q_heads, kv_heads, head_dim;
  float scale;
};

/// Writes the labels of the tile's rows.
struct LabelRowsArgs {
  KvTile kv;
  LabelTile labels;
  DType act;
  std::int64_t kv_heads, head_dim;
};

enum class SelectBy : std::uint8_t { labels, mass, none };  // none: sinks and window fill the budget
enum class Combine : std::uint8_t { mean, max };            // over the query heads of a group, of their softmax

/// The rows that one token attends: the first `sinks`, the last `window` of [0, rows), and of the others those that
/// score highest (equal scores: the lower row first) up to `budget` rows in all, or with top_p < 1 as few as hold that
/// share of the estimated attention. Exact. budget >= rows: every row. budget >= sinks + window.
struct SelectArgs {
  const void* q;  // [q_heads, head_dim] act, after rope; one token
  DType act;
  std::int64_t q_heads, kv_heads, head_dim;
  float scale;
  SelectBy by;
  Combine combine;
  LabelTile labels;   // by labels: rows [0, rows - window) must have one
  const float* mass;  // by mass: [kv_heads, mass_stride]; -inf: never selected
  std::int64_t mass_stride;
  std::int64_t rows, sinks, window, budget;
  float top_p;
  float* scratch;  // [q_heads + kv_heads, rows rounded up to kAttendBlock]; the CPU leaves the combined scores in the
                   // last kv_heads, as ordered keys
  RowList out;     // out.stride >= min(budget, rows)
};

/// Where a listed row is: a region and an index into it, in 32 bits.
enum class Region : std::uint32_t { prefix, ring, cache, staging };
constexpr std::int32_t row_place(Region region, std::int64_t index) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(region) << 29 | static_cast<std::uint32_t>(index));
}
constexpr Region place_region(std::int32_t place) {
  return static_cast<Region>(static_cast<std::uint32_t>(place) >> 29);
}
constexpr std::int64_t place_index(std::int32_t place) { return place & ((1 << 29) - 1); }

/// The regions of one session and layer; index i of a region is i rows from `data`. `first` is not used.
struct Regions {
  KvTile prefix, ring, cache, staging;
};

/// Finds where each selected row is on the device, and lists those that are not.
/// A row r is in the prefix (r < prefix_rows), in the ring (r >= ring_first, at r % ring_rows), in the cache
/// (slot_of[r] >= 0), in staging (the i-th of `staged` at place i), or missing: then it will come to the staging places
/// that follow the staged ones.
struct LocateArgs {
  RowList selected;
  std::int64_t prefix_rows, ring_first, ring_rows;
  const std::int32_t* slot_of;  // [kv_heads, slot_stride]; may be null: no cache
  std::int64_t slot_stride;
  RowList staged;        // rows may be null: nothing is staged
  RowList missing;       // out
  std::int32_t* places;  // [kv_heads, selected.stride] out; may be null
  std::int64_t* tally;   // [kTally] += selected rows, by where they were; may be null
  std::int64_t kv_heads;
};
enum Tally : std::uint8_t { kAttended, kCacheHits, kStagedHits, kMissed, kTally };

/// Brings listed rows over the link: the i-th row of a head's list to staging place dst_first[head] + i.
struct GatherArgs {
  RowList rows;
  KvTile src;                     // host memory; row r is r - src.first rows from src.data
  KvTile dst;                     // staging
  const std::int32_t* dst_first;  // [kv_heads]; may be null: 0
  std::int64_t kv_heads, row_bytes;
};

/// Attention of one token over its listed rows, in blocks of kAttendBlock list entries in ascending order, so that the
/// same rows give the same bits wherever they are, and a list of all rows gives those of attend().
struct AttendListArgs {
  const void* q;  // [q_heads, head_dim] act, after rope
  RowList rows;
  const std::int32_t* places;  // [kv_heads, rows.stride]; may be null: row r is at index r of the prefix
  Regions regions;
  const std::int32_t* landed;  // [kv_heads] staging places before this hold rows; may be null: all do
  float* scores;               // [q_heads, rows.stride] of the listed rows, times scale
  AttnState state;             // out: replaces what it holds; one token
  DType act;
  std::int64_t q_heads, kv_heads, head_dim;
  float scale;
};

/// The first half of attend_list, while rows are still on their way: the scores of the rows that have landed.
struct ScoreListArgs {
  AttendListArgs list;
};
/// The second half: the scores of the others (of all, where `scored` is false), the softmax, the values.
struct FinishListArgs {
  AttendListArgs list;
  bool scored;
};

/// Keeps the attended rows that were staged: copies them into cache slots, those least recently used (equal: the lower
/// slot) and not used now. Rows that find no slot are not kept. Marks the cache rows of the list as used now.
struct RetainArgs {
  RowList rows;
  const std::int32_t* places;  // [kv_heads, rows.stride]; null: row r is at index r - staging.first of regions.staging
  Regions regions;             // cache.rows: slots
  std::int64_t begin, end;     // only rows of [begin, end) are kept
  std::int32_t* slot_of;       // [kv_heads, slot_stride] row -> slot, or -1
  std::int64_t slot_stride;
  std::int32_t* row_of;   // [kv_heads, cache.rows] slot -> row, or -1
  std::int32_t* used_at;  // [kv_heads, cache.rows]
  std::int32_t now;       // grows from call to call
  std::int64_t kv_heads, row_bytes;
};

/// `count` elements of 4 bytes become `value`.
struct FillArgs {
  std::int32_t* out;
  std::int32_t value;
  std::int64_t count;
};

/// Attention mass that rows have received (H2O, arXiv 2306.14048): adds the probabilities of a listed attention, summed
/// over the query heads of a group. Rows of [0, n) that are not listed are given up: -inf.
struct AddListMassArgs {
  RowList rows;
  const float* scores;  // [q_heads, rows.stride] as attend_list left them
  AttnState state;      // of the same attention, before finish
  float* mass;          // [kv_heads, mass_stride]
  std::int64_t mass_stride;
  std::int64_t q_heads, kv_heads, head_dim, n;  // n: rows of the session
};

/// The same for a prefill chunk over the rows it sees: `state` holds the chunk's final m and l.
struct AddMassArgs {
  const void* q;  // [tokens, q_heads, head_dim] act
  std::int64_t q_stride;
  KvTile kv;  // all rows up to the chunk's last, from row 0
  AttnState state;
  float* mass;  // [kv_heads, mass_stride] +=
  std::int64_t mass_stride;
  DType act;
  std::int64_t tokens, q_heads, kv_heads, head_dim, q_pos;
  float scale;
};

/// Rounds K and V of the rows to `bits` bits in groups of up to 64 consecutive elements, each with a minimum and a
/// step, and writes them back: what a cache of that width would give (RTN, the rounding-only baseline).
struct RoundRowsArgs {
  KvTile kv;
  DType act;
  std::int64_t kv_heads, head_dim, bits;
};

/// How good a selection is, against the attention of the same token over all rows of [0, kv.rows).
struct SelectionQuality {
  float mass;    // kept by the listed rows: mean over the group's query heads
  float best;    // kept by as many rows of the exact group score's top
  float recall;  // share of the listed rows that are in that top; 1 for an empty list
};
struct JudgeArgs {
  const void* q;  // [q_heads, head_dim] act; one token
  KvTile kv;
  RowList rows;
  SelectionQuality* out;  // [kv_heads]
  DType act;
  std::int64_t q_heads, kv_heads, head_dim;
  float scale;
};

/// Sums over tokens for one layer, for offline calibration. In double precision, [kv_heads] of each.
struct MomentsArgs {
  const void* qkv;  // [tokens, (q_heads + 2 * kv_heads) * head_dim] act, after rope
  double* sums;     // [kv_heads, moment_doubles] +=
  DType act;
  std::int64_t tokens, q_heads, kv_heads, head_dim;
};
/// k k^T [d, d], q q^T [d, d], then [d] each: k, |k|, |q|, |q k| (same position), and the number of tokens. What has a
/// q in it is summed over the group's heads.
constexpr std::int64_t moment_doubles(std::int64_t d) { return 2 * d * d + 4 * d + 1; }

}  // namespace longhaul
