// Scores by labels of 4 bits, on the tensor cores and in integers: codes times weights that are cut into signed bytes.
// A sum of integers is the same in any order, so rows with the same codes have the same score wherever they are.
//
// One persistent launch. A unit is 256 rows of one head; a warp has a run of units and a ring of them in shared memory.
// The softmax of a group needs its sum over all rows before the first key: the labels are walked twice, with a wait of
// the whole grid between, and what the ring still holds is not loaded again. Sums are kept by unit and added up in one
// order, so a key depends on nothing but its session.
#include <algorithm>

#include "kernels/cuda/label_softmax.cuh"
#include "kernels/cuda/label_weights.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/overlap.cuh"

namespace longhaul::cuda {
namespace {

template <int K, int Quads>
__global__ void __launch_bounds__(512 / K, 1) score_units(const __grid_constant__ Selection s) {
  extern __shared__ uint4 space[];
  auto& shared = *reinterpret_cast<labels::Shared<K, Quads>*>(space);
  let_next_start();
  labels::Scorer<K, Quads>(s, shared, reinterpret_cast<std::byte*>(&shared + 1)).run();
}

template <int K, int Quads>
void launch_units(const Selection& s, cudaStream_t stream) {
  using Space = labels::Shared<K, Quads>;
  const std::int64_t unit = labels::kUnitBlocks * label_block_bytes(s.a.labels.dims, s.a.labels.bits);
  const std::int64_t beyond = label_block_bytes(32 * K, 4);  // tiles are read whole, whatever lies there
  Launch{.grid = static_cast<unsigned>(multiprocessors()),
         .block = Space::kWarps * 32,
         .shared_bytes = static_cast<std::size_t>(static_cast<std::int64_t>(sizeof(Space)) +
                                                  Space::kWarps * labels::kSlots * unit + beyond),
         .stream = stream,
         .cooperative = true}(score_units<K, Quads>, s);
}

}  // namespace

bool scores_fast(const Selection& s) { return s.a.labels.bits == 4 && s.a.labels.dims <= 64 && s.group <= 8; }

void score_codes(const Selection& s, cudaStream_t stream) {
  const bool wide = s.a.labels.dims > 32, many = s.group > 4;
  if (wide) many ? launch_units<2, 2>(s, stream) : launch_units<2, 1>(s, stream);
  else many ? launch_units<1, 2>(s, stream) : launch_units<1, 1>(s, stream);
}

}  // namespace longhaul::cuda
