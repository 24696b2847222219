// select: which steps a call takes.
#include "kernels/cuda/select.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

namespace longhaul::cuda {

namespace {

constexpr std::uint32_t kAnyKey = 0, kAboveMinusInfinity = 0x00800000;

}  // namespace

// Probabilities are in [0, 2): their sign and highest exponent bit say nothing, so the first digit starts below them.
Selection::Selection(const SelectArgs& args, unsigned gather_blocks)
    : a(args),
      group(args.q_heads / args.kv_heads),
      stride(round_up(args.batch.capacity, kAttendBlock)),
      blocks(static_cast<unsigned>(multiprocessors())),
      hint(args.by == SelectBy::labels && args.sums_given),
      softmax(args.by == SelectBy::labels && (group > 1 || args.top_p < 1 || args.out.tail != nullptr)),
      digit_shift(softmax ? kShareShift : 21),
      lowest(args.by == SelectBy::mass ? kAboveMinusInfinity : kAnyKey) {
  if (blocks > gather_blocks) blocks -= gather_blocks;
  static_assert(sizeof(HeadTally) + sizeof(HeadWeights) <= 7424 * sizeof(float));
  tallies = reinterpret_cast<HeadTally*>(a.scratch);
  weights = reinterpret_cast<HeadWeights*>(tallies + heads());
  keys = reinterpret_cast<std::uint32_t*>(weights + heads());
  work = reinterpret_cast<float*>(keys + heads() * stride);
  log_sums = work + a.batch.count * a.q_heads * stride;
  lists = reinterpret_cast<std::int32_t*>(log_sums + round_up(a.batch.count * a.q_heads, 4));  // words of 16 bytes
  shares = reinterpret_cast<std::uint32_t*>(lists + heads() * stride);
}

void select(const SelectArgs& a, unsigned gather_blocks, cudaStream_t stream) {
  if (a.batch.count == 0) return;
  const Selection s(a, a.beside_gather ? gather_blocks : 0);
  if (a.by == SelectBy::labels && scores_fast(s)) {
    score_codes(s, stream);
    if (a.top_p < 1) count_keys(s, KeySource::keys, stream);
  } else if (a.by == SelectBy::labels) {
    score_plain(s, stream);
    count_keys(s, KeySource::scores, stream);
  } else if (a.by == SelectBy::mass) {
    count_keys(s, KeySource::mass, stream);
  }
  top_rows(s, stream);
}

}  // namespace longhaul::cuda
