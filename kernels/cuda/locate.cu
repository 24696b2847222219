// locate: a team of blocks per (token, KV head). A warp takes a run of the list, finds its rows, and ranks those that
// are missing; the runs before it in the team give it the place of its first.
#include "kernels/base/bytes.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/team_scan.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kGroups = 4;     // of 32 entries, that a warp has in hand at once
constexpr int kPivots = 2048;  // of a staged list, in shared memory
constexpr int kSpacing = 32;   // from pivot to pivot, at least: one line of memory

/// An ascending list in device memory, searched by pivots first.
class SortedList {
 public:
  /// The block's threads bring the pivots; a barrier must follow.
  __device__ SortedList(const std::int32_t* list, int count, std::int32_t* pivots)
      : list_(list), count_(count), pivots_(pivots) {
    while (count_ > spacing_ * kPivots) spacing_ *= 2;
    pivot_count_ = (count_ + spacing_ - 1) / spacing_;
    for (int i = threadIdx.x; i < pivot_count_; i += kThreads) pivots_[i] = list_[i * spacing_];
    while (2 * pivot_step_ < pivot_count_) pivot_step_ *= 2;
  }
  __device__ bool empty() const { return count_ == 0; }
  /// Where each value would be if it were there: the last entry that is not above it, or the first. Of a list that is
  /// not empty. All at once, for every step of a search waits for memory.
  template <int N>
  __device__ void find(const std::int32_t (&value)[N], int (&at)[N]) const {
#pragma unroll
    for (int j = 0; j < N; ++j) at[j] = 0;
    for (int step = pivot_step_; step > 0; step /= 2)
#pragma unroll
      for (int j = 0; j < N; ++j)
        if (at[j] + step < pivot_count_ && pivots_[at[j] + step] <= value[j]) at[j] += step;
#pragma unroll
    for (int j = 0; j < N; ++j) at[j] *= spacing_;
    for (int step = spacing_ / 2; step > 0; step /= 2)
#pragma unroll
      for (int j = 0; j < N; ++j)
        if (at[j] + step < count_ && list_[at[j] + step] <= value[j]) at[j] += step;
  }
  __device__ std::int32_t operator[](int i) const { return list_[i]; }

 private:
  const std::int32_t* list_;
  int count_;
  std::int32_t* pivots_;
  int spacing_ = kSpacing, pivot_count_, pivot_step_ = 1;
};

__global__ void __launch_bounds__(kThreads, 1) locate_rows(const __grid_constant__ LocateArgs a, int* fault) {
  using Scan = TeamScan<kWarps>;
  __shared__ Scan::Shared scan_shared;
  __shared__ std::int32_t pivots[kPivots];
  __shared__ unsigned tally[kTally];
  wait_for_previous();
  let_next_start();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t head = blockIdx.y, list = blockIdx.z * a.kv_heads + head;
  const StepSpan span = a.batch.spans[blockIdx.z];
  const int count = a.selected.count[list];
  const int staged_count = a.staged.rows == nullptr ? 0 : a.staged.count[list];
  const std::int32_t* selected = a.selected.rows + list * a.selected.stride;
  const std::int32_t* slots =
      a.resident.slot_of == nullptr
          ? nullptr
          : a.resident.slot_of + span.slot * a.resident.slot_of_session + head * a.resident.stride;
  std::int32_t* missing = a.missing.rows + list * a.missing.stride;
  std::int32_t* places = a.places == nullptr ? nullptr : a.places + list * a.selected.stride;
  const auto prefix_rows = static_cast<int>(a.prefix_rows);
  const auto ring_rows = static_cast<unsigned>(a.ring_rows);
  if (threadIdx.x < kTally) tally[threadIdx.x] = 0;

  const int warps = static_cast<int>(team_size()) * kWarps, rank = static_cast<int>(team_rank()) * kWarps + warp;
  std::int32_t row[kGroups];
  int first, end;  // of the entries that the lane, and all warps, have in hand: a run for each warp
  auto take = [&](int base) {
    end = min(count, base + warps * 32 * kGroups);
    const int groups = (end - base + warps * 32 - 1) / (warps * 32);
    first = base + rank * groups * 32 + lane;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) row[j] = j < groups && first + j * 32 < end ? selected[first + j * 32] : -1;
  };
  take(0);
  const SortedList staged(a.staged.rows + list * a.staged.stride, staged_count, pivots);
  team_sync();
  Scan scan(scan_shared);
  int missed = 0, cache_hits = 0, staged_hits = 0;
  for (int base = 0; base < count;) {
    std::int32_t place[kGroups];  // a slot, then the place
    int at[kGroups];
    unsigned absent[kGroups];
#pragma unroll
    for (int j = 0; j < kGroups; ++j)
      place[j] = slots != nullptr && row[j] >= prefix_rows && row[j] < span.ring_first ? slots[row[j]] : -1;
    if (!staged.empty()) staged.find(row, at);
    int here = 0;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const std::int32_t r = row[j];
      const bool moved = r >= prefix_rows && r < span.ring_first, resident = place[j] >= 0;
      const bool prefetched = moved && !resident && !staged.empty() && staged[at[j]] == r;
      absent[j] = __ballot_sync(~0u, moved && !resident && !prefetched);
      here += __popc(absent[j]);
      cache_hits += __popc(__ballot_sync(~0u, resident));
      staged_hits += __popc(__ballot_sync(~0u, prefetched));
      if (resident) place[j] = row_place(Region::cache, place[j]);
      else if (prefetched) place[j] = row_place(Region::staging, at[j]);
      else if (r >= span.ring_first) place[j] = row_place(Region::ring, static_cast<unsigned>(r) % ring_rows);
      else place[j] = row_place(Region::prefix, r);
    }
    scan.add(static_cast<unsigned>(here));
    int next = missed + static_cast<int>(scan.before_this_warp());
    missed += static_cast<int>(scan.total());
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      if (absent[j] >> lane & 1) {
        const int at_missing = next + __popc(absent[j] & ((1u << lane) - 1));
        if (at_missing < a.missing.stride) missing[at_missing] = row[j];
        else *fault = kMissingRowsDoNotFit;
        place[j] = row_place(Region::staging, staged_count + at_missing);
      }
      next += __popc(absent[j]);
      if (places != nullptr && row[j] >= 0) places[first + j * 32] = place[j];
    }
    base = end;
    if (base < count) take(base);
  }

  if (rank == 0 && lane == 0) a.missing.count[list] = missed;
  if (a.tally == nullptr) return;
  if (lane == 0) {
    atomicAdd(&tally[kCacheHits], cache_hits);
    atomicAdd(&tally[kStagedHits], staged_hits);
    if (rank == 0) tally[kAttended] = count, tally[kMissed] = missed;
  }
  __syncthreads();
  if (threadIdx.x < kTally && tally[threadIdx.x] > 0)
    atomicAdd(reinterpret_cast<unsigned long long*>(a.tally) + threadIdx.x,
              static_cast<unsigned long long>(tally[threadIdx.x]));
}

}  // namespace

void locate(const LocateArgs& a, int* fault, cudaStream_t stream) {
  constexpr std::int64_t kBlockRows = 2048;  // for which another block is worth it
  const std::int64_t lists = a.batch.count * a.kv_heads;
  if (lists == 0) return;
  const unsigned blocks = team_blocks(a.selected.stride / kBlockRows, lists);
  Launch{.grid = {blocks, static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(a.batch.count)},
         .block = kThreads,
         .stream = stream,
         .overlap = true,
         .cluster = blocks}(locate_rows, a, fault);
}

}  // namespace longhaul::cuda
