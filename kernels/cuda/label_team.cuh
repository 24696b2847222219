// What scores labels: what for, how many warps, and what a block shares. Device code only.
#pragma once
#include "kernels/cuda/label_weights.cuh"

namespace longhaul::cuda::labels {

constexpr int kSlotBytes = 4 << 10;  // of a unit: its codes, and its scores in their place

/// What keys are: scores as they are, the group's softmax, or that and the softmax of each head beside it. Of a hint:
/// scores, or a softmax by sums that are given.
enum class Keys : std::uint8_t { scores, softmax, shares, hint_scores, hint };
constexpr bool is_hint(Keys kind) { return kind == Keys::hint_scores || kind == Keys::hint; }

/// How many work on it. A hint leaves a processor room for a product, beside which it runs.
template <Keys Kind>
struct Team {
  static constexpr int kWarps = is_hint(Kind) ? 8 : 16, kThreads = kWarps * 32;
  static constexpr int kBlocks = is_hint(Kind) ? 2 : 1;  // that registers are for
  static constexpr int kSlots = is_hint(Kind) ? 2 : 3;   // units in a warp's ring
  static constexpr int kHeads = is_hint(Kind) ? 1 : 2;   // KV heads that a block has counts of at once
};

struct Unit {
  int place, head, index;  // head: of the session; index: of the head's units
};

template <int K, int Quads, Keys Kind, bool Forms>
struct alignas(16) Shared {
  static constexpr int kWarps = Team<Kind>::kWarps, kSlots = Team<Kind>::kSlots, kHeads = Team<Kind>::kHeads;
  union {
    std::uint32_t counts[kHeads][kDigitBins];
    WeighSpace<K, Quads> weighing;
  };
  HeadWeights weights[kHeads][Forms ? kForms : 1];  // of the block's first heads; others have theirs in global memory
  float log_sum[kHeads][4 * Quads];
  float2 half_sums[kWarps];
  FillBarrier filled[kWarps][kSlots];
  Unit begin[kWarps], kept[kWarps];  // a warp's first unit, and the first whose scores are kept
  Competition places[kDecodeTokens];
  int slots[kDecodeTokens];           // of the sessions
  int first_unit[kDecodeTokens + 1];  // of each place
  FormBorders borders[Forms ? kDecodeTokens : 1];
};

}  // namespace longhaul::cuda::labels
