// The operators of label-selected attention: labels, selection, lists of rows, attention over listed rows, and what
// accuracy is measured with. Conventions as in ops.h. Row lists and lengths stay on the device: the host never sees a
// list, and a step is the same launches whatever the lengths are.
#pragma once
#include "kernels/ops.h"

namespace longhaul {

/// A list of row numbers for each token of a step and each KV head, ascending, in device memory.
struct RowList {
  std::int32_t* rows = nullptr;   // [batch.count, kv_heads, stride]
  std::int32_t* count = nullptr;  // [batch.count, kv_heads]
  std::int64_t stride = 0;
  /// [batch.count, q_heads] what the labels say of the rows that are not listed: the logarithm of the sum of
  /// exp(score). Null: nothing stands for them.
  float* tail = nullptr;
};
constexpr float kNoTail = -1e30f;  // no rows

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

/// What is needed to tell how much attention labels stand for, behind the bases of a layer's KV heads.
struct TailFit {
  float* beside;   // [kv_heads, head_dim] a query's product with it is what label scores lack on average
  float* weights;  // [q_heads] what the estimate is to be multiplied by
};
constexpr TailFit tail_fit(float* basis, std::int64_t kv_heads, std::int64_t head_dim, std::int64_t dims) {
  float* const end = basis + kv_heads * label_basis_floats(dims, head_dim);
  return {end, end + kv_heads * head_dim};
}
constexpr std::int64_t tail_fit_floats(std::int64_t q_heads, std::int64_t kv_heads, std::int64_t head_dim) {
  return kv_heads * head_dim + q_heads;
}

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
  std::byte* host;                     // fit_host_bytes() of pinned host memory, for devices that fit on the host
  bool weighs_tail = false;            // also writes tail_fit(); weights are 1 for a given basis
  std::int64_t sinks = 0, window = 0;  // of selection, as in StepSpan; for tail_fit()
  std::int64_t chunk = 0, reach = 0;   // dual-chunk attention, as in RopeArgs: `q` is in its own chunk's form
};
constexpr std::int64_t kFitKeys = 4096;  // keys that stand for all
constexpr std::int64_t fit_keys(std::int64_t rows) { return rows < kFitKeys ? rows : kFitKeys; }
/// The row of the i-th of them.
constexpr std::int64_t fit_key(std::int64_t i, std::int64_t rows) { return i * rows / fit_keys(rows); }
constexpr std::int64_t fit_host_bytes(std::int64_t queries, std::int64_t q_heads, std::int64_t kv_heads,
                                      std::int64_t head_dim, std::int64_t dims, DType act) {
  return (queries * q_heads + (kFitKeys + queries) * 2 * kv_heads) * head_dim * size_of(act) +
         (kv_heads * label_basis_floats(dims, head_dim) + tail_fit_floats(q_heads, kv_heads, head_dim) + head_dim) * 4;
}

/// Writes the labels of the tile's rows.
struct LabelRowsArgs {
  KvTile kv;
  LabelTile labels;
  DType act;
  std::int64_t kv_heads, head_dim;
};

enum class SelectBy : std::uint8_t { labels, mass, none };  // none: sinks and window fill the budget
enum class Combine : std::uint8_t { mean, max };            // over the query heads of a group, of their softmax

/// The rows that each span's token attends: the first `sinks`, the last `window` of [0, rows), and of the others those
/// that score highest (equal scores: the lower row first) up to `budget` rows in all, or with top_p < 1 as few as hold
/// that share of the estimated attention. Exact. budget >= rows: every row.
/// By labels a row's score is the mean or most of its softmax for the group's query heads, whose sums are known only
/// when every row has been seen. With `sums_given` those of an earlier query stand for them, so that rows are seen
/// once: for a hint, which need not be exact, at a fraction of the cost.
struct SelectArgs {
  const void* q;          // [batch.count, q_heads, head_dim] act, after rope
  std::int64_t q_stride;  // elements from one token to the next
  StepBatch batch;
  DType act;
  std::int64_t q_heads, kv_heads, head_dim;
  float scale;
  SelectBy by;
  Combine combine;
  LabelTile labels;                               // by labels: rows [0, rows - window) must have one; by slot
  const float* mass;                              // by mass: [slots, kv_heads, mass_stride]; -inf: never selected
  std::int64_t mass_stride, mass_session_stride;  // elements
  float top_p;
  float* scratch;  // select_floats() of them
  RowList out;     // out.stride >= min(budget, rows) of any span
  /// [slots, sums_stride] of each query head of a session the logarithm of its softmax's sum, in the device's own
  /// units. Written where rows compete, or read (sums_given; out.tail is null then). Null: not kept.
  float* sums = nullptr;
  std::int64_t sums_stride = 0;
  bool sums_given = false;
  bool beside_gather = false;  // one may run meanwhile: the device leaves it its places
  QueryForms forms = {};
};
/// Words for a byte of each query head of a group.
constexpr std::int64_t share_words(std::int64_t group) { return group == 1 ? 0 : (group + 3) / 4; }
/// A score, a byte of its softmax, a key and a place in a list for every row of each token and head, and what is
/// counted of a KV head's keys.
constexpr std::int64_t select_floats(std::int64_t tokens, std::int64_t q_heads, std::int64_t kv_heads,
                                     std::int64_t capacity) {
  constexpr std::int64_t kCounts = 7424;  // 2,048 counts, as many masses of 8 bytes, and a thousand words
  const std::int64_t rows = (capacity + kAttendBlock - 1) / kAttendBlock * kAttendBlock;
  return tokens *
         ((q_heads + 2 * kv_heads) * (rows + 16) + kv_heads * (share_words(q_heads / kv_heads) * rows + kCounts));
}

/// Where a listed row is: a region and an index into it, in 32 bits.
enum class Region : std::uint32_t { prefix, ring, cache, staging };
constexpr std::int32_t row_place(Region region, std::int64_t index) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(region) << 29 | static_cast<std::uint32_t>(index));
}
constexpr Region place_region(std::int32_t place) {
  return static_cast<Region>(static_cast<std::uint32_t>(place) >> 29);
}
constexpr std::int64_t place_index(std::int32_t place) { return place & ((1 << 29) - 1); }

/// The regions of a layer; index i of a region is i rows from `data`, all of one type. `first` is not used. prefix,
/// ring and cache lie by slot, staging by place in the batch.
struct Regions {
  KvTile prefix, ring, cache, staging;
};

/// The resident set of a layer, by slot: which row is in which of cache.rows slots of each KV head.
struct ResidentSet {
  std::int32_t* slot_of = nullptr;               // [slots, kv_heads, stride] row -> slot, or -1; null: no resident set
  std::int64_t stride = 0, slot_of_session = 0;  // elements from head to head, from session to session
  std::int32_t* row_of = nullptr;                // [slots, kv_heads, cache.rows] slot -> row, or -1
  std::int32_t* used_at = nullptr;               // [slots, kv_heads, cache.rows]
  std::int64_t rows = 0, row_of_session = 0;     // cache.rows; elements of row_of and of used_at, session to session
};

/// Finds where each selected row is on the device, and lists those that are not.
/// A row r is in the prefix (r < prefix_rows), in the ring (r >= ring_first of its span, at r % ring_rows), in the
/// resident set, in staging (the i-th of `staged` at place i), or missing: then it will come to the staging places that
/// follow the staged ones.
struct LocateArgs {
  StepBatch batch;
  RowList selected;
  std::int64_t prefix_rows, ring_rows;
  ResidentSet resident;
  RowList staged;        // rows may be null: nothing is staged
  RowList missing;       // out
  std::int32_t* places;  // [batch.count, kv_heads, selected.stride] out; may be null
  std::int64_t* tally;   // [kTally] += selected rows, by where they were; may be null
  std::int64_t kv_heads;
};
enum Tally : std::uint8_t { kAttended, kCacheHits, kStagedHits, kMissed, kTally };

/// Brings listed rows over the link: the i-th row of a head's list to staging place dst_first + i.
struct GatherArgs {
  StepBatch batch;
  RowList rows;
  KvTile src;                     // pinned host memory; row r is span.host_first + r - src.first rows from src.data
  KvTile dst;                     // staging, by place in the batch
  const std::int32_t* dst_first;  // [batch.count, kv_heads]; may be null: 0
  std::int64_t kv_heads, row_bytes;
};

/// Attention of each span's token over its listed rows. On the CPU device in blocks of kAttendBlock list entries in
/// ascending order, so that the same rows give the same bits wherever they are, and a list of all rows gives those of
/// attend_step().
struct AttendListArgs {
  const void* q;          // [batch.count, q_heads, head_dim] act, after rope
  std::int64_t q_stride;  // elements from one token to the next
  StepBatch batch;
  RowList rows;
  const std::int32_t* places;  // [batch.count, kv_heads, rows.stride]; null: row r is at index r of the prefix
  Regions regions;
  const std::int32_t* landed;  // [batch.count, kv_heads] staging places before this hold rows; null: all do
  const std::int32_t* missed;  // [batch.count, kv_heads] rows of the list that are at places from `landed` on; null: 0
  float* scores;               // [batch.count, q_heads, rows.stride] of the listed rows, times scale; the CPU device's,
                               // and where `keep_scores` every device's
  bool keep_scores;
  AttnState state;  // out: m and l (o: scratch), of any scale as in AttendArgs
  float* splits;    // split_floats(batch.count, ...)
  DType act;
  std::int64_t q_heads, kv_heads, head_dim;
  float scale;
  QueryForms forms = {};
};

/// The first half, while rows are still on their way: what can be done with the rows that have landed.
struct ScoreListArgs {
  AttendListArgs list;
};
/// The second half: the other rows (all, where `scored` is false), and the output.
struct FinishListArgs {
  AttendListArgs list;
  bool scored;
  void* out;  // [batch.count, q_heads, head_dim] act
  /// [slots, kv_heads, head_dim] the mean value, which stands for those of the rows that are not listed, with
  /// list.rows.tail as their attention (SparQ, arXiv 2312.04985, section 3). Null: nothing does.
  const float* mean;
  std::int64_t mean_session_stride;  // elements
};

/// Keeps the attended rows that were staged: copies them into slots of the resident set, those least recently used
/// (equal: the lower slot) and not used now; of the chosen slots the lowest takes the first row, and so on. Rows that
/// find no slot are not kept. Marks the resident rows of the list as used now: at `rows` of their span, which grows
/// from step to step. With row_bytes = 0 the set knows of the rows, and store_rows brings them.
struct RetainArgs {
  StepBatch batch;
  RowList rows;
  const std::int32_t* places;  // [batch.count, kv_heads, rows.stride] of locate, for this resident set; null: row r is
                               // at index r - staging.first of regions.staging
  Regions regions;
  std::int64_t begin;  // only rows of [begin, ring_first of the span) are kept
  ResidentSet resident;
  std::int64_t kv_heads, row_bytes;
};

/// `count` elements of 4 bytes become `value`.
struct FillArgs {
  std::int32_t* out;
  std::int32_t value;
  std::int64_t count;
};

/// Attention mass that rows have received (H2O, arXiv 2306.14048): adds the probabilities of a listed attention, summed
/// over the query heads of a group. Rows of [0, rows) of the span that are not listed are given up: -inf.
struct AddListMassArgs {
  StepBatch batch;
  RowList rows;
  const float* scores;  // [batch.count, q_heads, rows.stride] as finish_list left them, with keep_scores
  AttnState state;      // of the same attention
  float* mass;          // [slots, kv_heads, mass_stride]
  std::int64_t mass_stride, mass_session_stride;
  std::int64_t q_heads, kv_heads, head_dim;
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
  QueryForms forms = {};
};

/// Writes activations' rows as dst.type has them.
struct StoreRowsArgs {
  KvTile src;  // of type act
  KvTile dst;
  /// [kv_heads, dst.rows] which row of src (its absolute number) goes to each place of dst; negative: none, the place
  /// keeps what it has. Null: src's rows in order.
  const std::int32_t* rows;
  DType act;
  std::int64_t kv_heads, head_dim;
};

/// How good a selection is, against the attention of the same token over all rows of its span.
struct SelectionQuality {
  float mass;    // kept by the listed rows: mean over the group's query heads
  float best;    // kept by as many rows of the exact group score's top
  float recall;  // share of the listed rows that are in that top; 1 for an empty list
};
struct JudgeArgs {
  const void* q;          // [batch.count, q_heads, head_dim] act
  std::int64_t q_stride;  // elements from one token to the next
  StepBatch batch;
  KvTile kv;  // by slot: all rows from row 0
  RowList rows;
  SelectionQuality* out;    // [batch.count, kv_heads]
  std::int64_t out_stride;  // elements from one token to the next
  DType act;
  std::int64_t q_heads, kv_heads, head_dim;
  float scale;
  QueryForms forms = {};
};

/// The mean value of the rows.
struct MeanValuesArgs {
  KvTile kv;   // at least one row
  float* out;  // [kv_heads, head_dim]
  DType act;
  std::int64_t kv_heads, head_dim;
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
