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
constexpr int kGroups = 8;     // of 32 entries, that a warp has in hand at once
constexpr int kPivots = 2048;  // of a staged list, in shared memory
constexpr int kSpacing = 32;   // from pivot to pivot, at least: one line of memory

/// An ascending list in device memory, searched by pivots first.
class SortedList {
 public:
  __device__ SortedList(const std::int32_t* list, int count, std::int32_t* pivots)
      : list_(list), count_(count), pivots_(pivots) {
    while (count_ > spacing_ * kPivots) spacing_ *= 2;
    pivot_count_ = (count_ + spacing_ - 1) / spacing_;
    for (int i = threadIdx.x; i < pivot_count_; i += kThreads) pivots_[i] = list_[i * spacing_];
    __syncthreads();
    while (2 * pivot_step_ < pivot_count_) pivot_step_ *= 2;
  }
  /// Index of `value`, or -1.
  __device__ int find(std::int32_t value) const {
    if (count_ == 0) return -1;
    int at = 0;
    for (int step = pivot_step_; step > 0; step /= 2)
      if (at + step < pivot_count_ && pivots_[at + step] <= value) at += step;
    at *= spacing_;
    for (int step = spacing_ / 2; step > 0; step /= 2)
      if (at + step < count_ && list_[at + step] <= value) at += step;
    return list_[at] == value ? at : -1;
  }

 private:
  const std::int32_t* list_;
  int count_;
  std::int32_t* pivots_;
  int spacing_ = kSpacing, pivot_count_, pivot_step_ = 1;
};

__global__ void __launch_bounds__(kThreads, 1) locate_rows(const __grid_constant__ LocateArgs a, int* fault) {
  using Scan = TeamScan<kThreads>;
  __shared__ typename Scan::Shared scan_shared;
  __shared__ std::int32_t pivots[kPivots];
  __shared__ unsigned tally[kTally];
  wait_for_previous();
  let_next_start();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t head = blockIdx.y, list = blockIdx.z * a.kv_heads + head;
  const StepSpan span = a.batch.spans[blockIdx.z];
  const std::int32_t* selected = a.selected.rows + list * a.selected.stride;
  const std::int32_t* slots =
      a.resident.slot_of == nullptr
          ? nullptr
          : a.resident.slot_of + span.slot * a.resident.slot_of_session + head * a.resident.stride;
  std::int32_t* missing = a.missing.rows + list * a.missing.stride;
  std::int32_t* places = a.places == nullptr ? nullptr : a.places + list * a.selected.stride;
  const int count = a.selected.count[list];
  const int staged_count = a.staged.rows == nullptr ? 0 : a.staged.count[list];
  if (threadIdx.x < kTally) tally[threadIdx.x] = 0;
  team_sync();  // all blocks run
  const SortedList staged(a.staged.rows + list * a.staged.stride, staged_count, pivots);

  Scan scan(scan_shared);
  const int warps = static_cast<int>(team_size()) * kWarps, rank = static_cast<int>(team_rank()) * kWarps + warp;
  int missed = 0, cache_hits = 0, staged_hits = 0;
  for (int base = 0; base < count; base += warps * 32 * kGroups) {
    const int end = min(count, base + warps * 32 * kGroups);
    const int groups = (end - base + warps * 32 - 1) / (warps * 32);  // of every warp
    const int first = base + rank * groups * 32 + lane;
    std::int32_t row[kGroups], slot[kGroups];
    unsigned absent[kGroups];
#pragma unroll
    for (int j = 0; j < kGroups; ++j) row[j] = j < groups && first + j * 32 < end ? selected[first + j * 32] : -1;
#pragma unroll
    for (int j = 0; j < kGroups; ++j)
      slot[j] = slots != nullptr && row[j] >= a.prefix_rows && row[j] < span.ring_first ? slots[row[j]] : -1;
    int here = 0;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const std::int32_t r = row[j];
      const bool moved = r >= a.prefix_rows && r < span.ring_first, resident = slot[j] >= 0;
      const int at = moved && !resident ? staged.find(r) : -1;
      absent[j] = __ballot_sync(~0u, moved && !resident && at < 0);
      here += __popc(absent[j]);
      cache_hits += __popc(__ballot_sync(~0u, resident));
      staged_hits += __popc(__ballot_sync(~0u, at >= 0));
      if (resident) slot[j] = row_place(Region::cache, slot[j]);
      else if (moved) slot[j] = row_place(Region::staging, at);
      else if (r >= span.ring_first) slot[j] = row_place(Region::ring, r % a.ring_rows);
      else slot[j] = row_place(Region::prefix, r);
    }
    const auto [before, total] = scan(static_cast<unsigned>(here));
    int next = missed + static_cast<int>(before);
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      if (absent[j] >> lane & 1) {
        const int at = next + __popc(absent[j] & ((1u << lane) - 1));
        if (at < a.missing.stride) missing[at] = row[j];
        else *fault = kMissingRowsDoNotFit;
        slot[j] = row_place(Region::staging, staged_count + at);
      }
      next += __popc(absent[j]);
      if (places != nullptr && j < groups && first + j * 32 < end) places[first + j * 32] = slot[j];
    }
    missed += static_cast<int>(total);
  }

  if (team_rank() == 0 && threadIdx.x == 0) a.missing.count[list] = missed;
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
  constexpr std::int64_t kPartRows = 1024;  // from which on another block is worth it
  const std::int64_t lists = a.batch.count * a.kv_heads;
  if (lists == 0) return;
  const unsigned parts = team_blocks(a.selected.stride / kPartRows, lists);
  Launch{.grid = {parts, static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(a.batch.count)},
         .block = kThreads,
         .stream = stream,
         .overlap = true,
         .cluster = parts}(locate_rows, a, fault);
}

}  // namespace longhaul::cuda
