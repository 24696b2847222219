// Scores by labels of 4 bits, on the tensor cores: one launch on all processors, a block each, which takes all its
// registers. So where a gather may run meanwhile, as many processors as it has blocks are left out (Selection::blocks):
// a block would wait for the gather's end. A unit is 256 rows of one head (128 where labels or groups are large); a
// warp has a run of units and a ring of them in shared memory, which it begins to fill before the kernels before it
// have ended. Each block makes the operands of its heads' queries itself.
//
// The softmax of a group needs its sum over all rows before the first key. So units are visited twice, with a wait of
// all blocks between: the first visit writes scores in the place of codes, and what the ring and registers keep of them
// (all, of 256K rows by 8 heads of 32 dimensions) is neither loaded nor computed again. Sums are kept by unit and added
// up in one order, so a key depends on nothing but its session. A hint, with sums given, is one visit, by smaller
// blocks that do not wait for each other: they fit beside those of a product.
//
// Where queries have forms, a unit is of one chunk and so of one of them: a block makes the operands of those that its
// heads' units ask with, and a score gets what the form's rows have besides (form_offset).
#include <type_traits>

#include "kernels/cuda/label_keys.cuh"
#include "kernels/cuda/label_softmax.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {
namespace {

template <int K, int Quads, labels::Keys Kind, bool Forms>
__global__ void __launch_bounds__(labels::Team<Kind>::kThreads, labels::Team<Kind>::kBlocks)
    score_units(const __grid_constant__ Selection s) {
  extern __shared__ uint4 space[];
  using Scorer = labels::Scorer<K, Quads, Kind, Forms>;
  auto& shared = *reinterpret_cast<typename Scorer::Space*>(space);
  let_next_start();
  Scorer(s, shared, reinterpret_cast<std::byte*>(&shared + 1)).run();
}

template <int K, int Quads, labels::Keys Kind, bool Forms>
void launch_formed(const Selection& s, cudaStream_t stream) {
  using Space = typename labels::Scorer<K, Quads, Kind, Forms>::Space;
  using Team = labels::Team<Kind>;
  constexpr std::size_t kBeyond = 1024 * K;  // tiles are read whole, whatever lies there
  constexpr std::size_t kBytes = sizeof(Space) + Team::kWarps * Team::kSlots * labels::kSlotBytes + kBeyond;
  static_assert(kBytes <= (227 << 10) / Team::kBlocks);
  Launch{.grid = s.blocks, .block = Team::kThreads, .shared_bytes = kBytes, .stream = stream, .overlap = true}(
      score_units<K, Quads, Kind, Forms>, s);
}

template <int K, int Quads, labels::Keys Kind>
void launch_units(const Selection& s, cudaStream_t stream) {
  if (s.a.forms.chunk > 0) launch_formed<K, Quads, Kind, true>(s, stream);
  else launch_formed<K, Quads, Kind, false>(s, stream);
}

}  // namespace

bool scores_fast(const Selection& s) { return s.a.labels.bits == 4 && s.a.labels.dims <= 64 && s.group <= 8; }

void score_codes(const Selection& s, cudaStream_t stream) {
  using labels::Keys;
  const bool wide = s.a.labels.dims > 32, many = s.group > 4;
  auto launch = [&]<Keys Kind>(std::integral_constant<Keys, Kind>) {
    if (wide) many ? launch_units<2, 2, Kind>(s, stream) : launch_units<2, 1, Kind>(s, stream);
    else many ? launch_units<1, 2, Kind>(s, stream) : launch_units<1, 1, Kind>(s, stream);
  };
  auto scores = [&]<Keys Kind>(std::integral_constant<Keys, Kind>) {
    wide ? launch_units<2, 1, Kind>(s, stream) : launch_units<1, 1, Kind>(s, stream);
  };
  if (s.hint) {
    check(cudaMemsetAsync(s.tallies, 0, static_cast<std::size_t>(s.heads()) * sizeof(HeadTally), stream));
    if (s.softmax) launch(std::integral_constant<Keys, Keys::hint>{});
    else scores(std::integral_constant<Keys, Keys::hint_scores>{});
    return;
  }
  if (s.a.out.tail != nullptr) launch(std::integral_constant<Keys, Keys::shares>{});
  else if (s.softmax) launch(std::integral_constant<Keys, Keys::softmax>{});
  else scores(std::integral_constant<Keys, Keys::scores>{});
}

}  // namespace longhaul::cuda
