// The steps of select, each a launch or a few: scores to ordered keys, counts of the keys' first digit, and the exact
// top by it. All on one stream; lengths are read on the device. Scratch is select_floats() of SelectArgs.
#pragma once
#include <cuda_runtime_api.h>

#include "kernels/base/bytes.h"
#include "kernels/sparse_ops.h"

namespace longhaul::cuda {

using Units = unsigned long long;  // of mass, 2^40 for all there is; what CUDA's 64-bit atomics take

constexpr int kDigitBins = 2048;  // of a key's first digit: 11 bits, from `digit_shift` on
constexpr int kShareShift = 19;   // that where keys are a softmax
constexpr int kMostParts = 64;    // blocks that share a head's rows

/// A head's queries as operands of the products with codes (label_weights.cuh).
struct alignas(16) HeadWeights {
  std::uint32_t b[256];
  float factor[8];
  float offset[8];  // of scores, in their units, where queries have forms
  float base[8];    // that the softmax's powers are relative to; infinite where scores range too far for one base
};

/// What is known of a token's and KV head's keys.
struct alignas(16) HeadTally {
  std::uint32_t counts[kDigitBins];  // competing rows
  union {
    Units masses[kDigitBins];  // of those; with top_p
    HeadWeights forms[3];      // before there are any, of the forms of queries
  };
  double mass;  // about what the values sum to; with top_p
  struct Part {
    std::uint32_t above, listed;  // competing rows beyond the threshold's first digit, and with it
    std::uint32_t before;         // those taken in earlier parts
  } parts[kMostParts];
  float shares[kMostParts][8];                // of each query head's softmax what the rows that a part has listed have
  std::uint32_t key;                          // the threshold: rows of a higher key are taken,
  int last;                                   // and those of this key up to this row
  std::uint32_t listed_parts, written_parts;  // blocks that have listed theirs, and written them
};

/// The operator's arguments and its scratch in parts. A head's rows are `stride` apart.
struct Selection {
  /// `gather_blocks`: of a gather that may run meanwhile.
  explicit Selection(const SelectArgs&, unsigned gather_blocks = 0);

  SelectArgs a;
  std::int64_t group, stride;
  unsigned blocks;       // of score_codes: the processors less those of a gather, where some are left
  bool hint;             // one that runs beside other work (SelectArgs::sums_given)
  bool softmax;          // keys are the group's probabilities, in [0, 2); else scores as they are
  int digit_shift;       // of the first digit
  std::uint32_t lowest;  // keys below are never taken

  HeadTally* tallies;     // [count, kv_heads]
  HeadWeights* weights;   // [count, kv_heads]
  std::uint32_t* keys;    // [count, kv_heads, stride]
  float* work;            // [count, q_heads, stride] scores or parts of their softmax
  std::int32_t* lists;    // [count, kv_heads, stride] rows that have the threshold's first digit
  std::uint32_t* shares;  // [count, kv_heads, stride, share_words] bytes of a row's query heads (share_scale), of
                          // score_codes' softmax; written where there is a tail and more than one head in a group
  float* log_sums;        // [count, q_heads] log2 of the softmax's sum, in base 2

  constexpr std::int64_t heads() const { return a.batch.count * a.kv_heads; }
};

/// Keys of the rows that compete, by labels of 4 bits and up to 64 dimensions, for groups of up to 8: one launch, of a
/// hint after another that clears the tallies.
/// Counts digits too.
bool scores_fast(const Selection&);
void score_codes(const Selection&, cudaStream_t);
/// Label scores of any kind into `work`, and log_sums where there is a softmax.
void score_plain(const Selection&, cudaStream_t);

enum class KeySource : std::uint8_t { keys, scores, mass };
/// Keys from what is there, and the tallies anew, masses too where top_p asks for them.
void count_keys(const Selection&, KeySource, cudaStream_t);

/// The list, from keys and tallies; where nothing competes, from the spans alone. Its tail, from the softmax that
/// score_codes or score_plain has left.
void top_rows(const Selection&, cudaStream_t);

}  // namespace longhaul::cuda
