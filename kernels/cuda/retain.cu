// retain: a team of blocks per (token, KV head). It marks the resident rows of the list and notes which of the others
// are incoming; finds the age from which on slots are given away, by a histogram of ages; and hands the i-th incoming
// row and the i-th chosen slot to the block that brings one to the other.
#include "kernels/base/bytes.h"
#include "kernels/cuda/copy_rows.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/team_scan.cuh"

#include <cub/block/block_scan.cuh>

namespace longhaul::cuda {
namespace {

// Blocks small enough to stand beside those of a product, which a row mover must not keep from starting.
constexpr int kThreads = 256, kWarps = kThreads / 32, kBinsOfThread = 8, kBins = kBinsOfThread * kThreads;
constexpr int kAtOnce = 8;        // groups of 32 entries that a warp loads before it uses the first
constexpr int kPairs = 2048;      // a row and a slot each, that a block moves at a time
constexpr unsigned kEmpty = ~0u;  // the age of a slot that holds no row: the greatest
using BinScan = cub::BlockScan<unsigned, kThreads>;

/// What find_cut() has found of the bins.
struct Found {
  unsigned bin, above, in_bin, all;
};

struct Shared {
  TeamScan<kWarps>::Shared scan;
  BinScan::TempStorage bins;
  unsigned count[kBins], total[kBins];  // of slots by age: this block's, and in block 0 the team's
  Found found;
  std::int32_t entry[kPairs], slot[kPairs];  // of the list, and where its row goes
};

/// One KV head of one session's resident set.
struct Head {
  std::int32_t *slot_of, *row_of, *used_at;
  std::int32_t now;

  /// Of 32 * kAtOnce slots, the lane's from `slot` on; 0: used now, or no slot.
  __device__ void ages(std::int64_t slot, std::int64_t end, unsigned (&age)[kAtOnce]) const {
    std::int32_t row[kAtOnce];
#pragma unroll
    for (int g = 0; g < kAtOnce; ++g) {
      const std::int64_t s = slot + g * 32;
      row[g] = s < end ? row_of[s] : 0;
      age[g] = static_cast<unsigned>(now) - static_cast<unsigned>(s < end ? used_at[s] : now);
    }
#pragma unroll
    for (int g = 0; g < kAtOnce; ++g)
      if (row[g] < 0) age[g] = kEmpty;
  }
};

/// Which slots are given away: all older than `high`, and of those of an age in [low, high] the first `quota`.
struct Cut {
  unsigned low, high, quota;
  __device__ bool over(unsigned age) const { return age > high; }
  __device__ bool among(unsigned age) const { return age >= low && age <= high; }
};

/// Adds a warp's ages to the block's bins. Often many have one age: then one addition serves them all.
__device__ void add_to_bins(unsigned* bins, unsigned bin, bool in) {
  const unsigned some = __ballot_sync(~0u, in);
  if (some == 0) return;
  const int lane = threadIdx.x % 32, leader = __ffs(static_cast<int>(some)) - 1;
  const unsigned common = __shfl_sync(~0u, bin, leader), alike = __ballot_sync(~0u, in && bin == common);
  if (lane == leader) atomicAdd(&bins[common], __popc(alike));
  else if (in && bin != common) atomicAdd(&bins[bin], 1);
}

/// The cut that gives `wanted` slots away, or all that can be, whose number becomes `wanted`. The block's bins are
/// zero. Of ages in [low, high] a bin has 2^shift, the last but one all that are left, the last kEmpty.
__device__ Cut find_cut(const Head& head, std::int64_t begin, std::int64_t end, unsigned& wanted, Shared& shared) {
  Cut cut{1, kEmpty, wanted};
  const int lane = threadIdx.x % 32;
  unsigned shift = 0;
  for (bool start = true;; start = false) {
    for (std::int64_t s = begin + lane; s - lane < end; s += 32 * kAtOnce) {
      unsigned age[kAtOnce];
      head.ages(s, end, age);
#pragma unroll
      for (int g = 0; g < kAtOnce; ++g)
        add_to_bins(shared.count, age[g] == kEmpty ? kBins - 1 : min((age[g] - cut.low) >> shift, kBins - 2u),
                    cut.among(age[g]));
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kBins; i += kThreads)
      if (shared.count[i] > 0) atomicAdd(team_peer(shared.total, 0) + i, shared.count[i]);
    team_sync();
    if (team_rank() == 0) {
      unsigned bins[kBinsOfThread], above[kBinsOfThread], all;
      const int top = kBins - 1 - kBinsOfThread * static_cast<int>(threadIdx.x);  // the oldest first
#pragma unroll
      for (int b = 0; b < kBinsOfThread; ++b) bins[b] = shared.total[top - b];
      BinScan(shared.bins).ExclusiveSum(bins, above, all);
      const unsigned quota = start ? min(all, wanted) : cut.quota;
      if (quota == 0 && threadIdx.x < team_size()) *team_peer(&shared.found, threadIdx.x) = {0, 0, 0, 0};
#pragma unroll
      for (int b = 0; b < kBinsOfThread; ++b)
        if (above[b] < quota && quota <= above[b] + bins[b])
          for (unsigned peer = 0; peer < team_size(); ++peer)
            *team_peer(&shared.found, peer) = {static_cast<unsigned>(top - b), above[b], bins[b], all};
    }
    team_sync();
    const Found found = shared.found;
    if (start) cut.quota = wanted = min(found.all, wanted);
    if (wanted == 0) return cut;
    cut.quota -= found.above;
    if (found.bin == kBins - 1) return {kEmpty, kEmpty, cut.quota};
    cut.low += found.bin << shift;
    if (found.bin < kBins - 2) cut.high = min(cut.high - cut.low, (1u << shift) - 1) + cut.low;
    else if (cut.high == kEmpty) --cut.high;
    if (cut.low == cut.high || found.in_bin == cut.quota) return cut;  // exact, or all of the bin
    shift = cut.high - cut.low < kBins - 2 ? 0 : 32 - __clz(static_cast<int>(cut.high - cut.low)) - 10;
    for (int i = threadIdx.x; i < kBins; i += kThreads) shared.count[i] = shared.total[i] = 0;
    team_sync();
  }
}

/// 32 slots: which are given away for certain, and which while the quota lasts.
struct SlotGroup {
  unsigned over, among;
};

template <class Unit>
__global__ void __launch_bounds__(kThreads, 2)
    retain_rows(const __grid_constant__ RetainArgs a, int list_groups, int slot_groups) {  // groups of a warp
  __shared__ Shared shared;
  extern __shared__ SlotGroup groups[];  // [kWarps * slot_groups], and masks of incoming rows: [kWarps * list_groups]
  wait_for_previous();
  let_next_start();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int rank = static_cast<int>(team_rank()) * kWarps + warp;
  const unsigned below = (1u << lane) - 1;
  const std::int64_t head = blockIdx.y, list = blockIdx.z * a.kv_heads + head, slots = a.resident.rows;
  const StepSpan span = a.batch.spans[blockIdx.z];
  const int count = a.rows.count[list];
  const std::int32_t* rows = a.rows.rows + list * a.rows.stride;
  const std::int32_t* places = a.places == nullptr ? nullptr : a.places + list * a.rows.stride;
  const std::int64_t session = span.slot;
  const Head set{a.resident.slot_of + session * a.resident.slot_of_session + head * a.resident.stride,
                 a.resident.row_of + session * a.resident.row_of_session + head * slots,
                 a.resident.used_at + session * a.resident.row_of_session + head * slots, span.rows};
  SlotGroup* slot_masks = groups + warp * slot_groups;
  unsigned* list_masks = reinterpret_cast<unsigned*>(groups + kWarps * slot_groups) + warp * list_groups;
  for (int i = threadIdx.x; i < kBins; i += kThreads) shared.count[i] = shared.total[i] = 0;
  team_sync();

  // The list.
  unsigned incoming = 0;
  for (int begin = 0; begin < list_groups; begin += kAtOnce) {
    const int first = (rank * list_groups + begin) * 32 + lane;
    std::int32_t row[kAtOnce], place[kAtOnce];
#pragma unroll
    for (int g = 0; g < kAtOnce; ++g) {
      const int i = first + g * 32;
      const bool there = begin + g < list_groups && i < count;
      row[g] = there ? rows[i] : -1;
      place[g] = there && places != nullptr ? places[i] : row_place(Region::staging, 0);
    }
    if (places == nullptr)
#pragma unroll
      for (int g = 0; g < kAtOnce; ++g)
        if (const std::int32_t slot = row[g] >= 0 ? set.slot_of[row[g]] : -1; slot >= 0)
          place[g] = row_place(Region::cache, slot);
#pragma unroll
    for (int g = 0; g < kAtOnce; ++g) {
      const std::int32_t r = row[g];
      if (r >= 0 && place_region(place[g]) == Region::cache) set.used_at[place_index(place[g])] = set.now;
      const unsigned mask = __ballot_sync(
          ~0u, place_region(place[g]) == Region::staging && r >= 0 && r >= a.begin && r < span.ring_first);
      if (lane == 0 && begin + g < list_groups) list_masks[begin + g] = mask;
      incoming += __popc(mask);
    }
  }
  TeamScan<kWarps> scan(shared.scan);
  scan.add(incoming);
  auto wanted = static_cast<unsigned>(scan.total());
  if (wanted == 0) return;
  incoming = static_cast<unsigned>(scan.before_this_warp());

  // The slots.
  const std::int64_t begin = std::int64_t{rank} * slot_groups * 32;
  const std::int64_t end = begin + slot_groups * 32 < slots ? begin + slot_groups * 32 : slots;
  const Cut cut = find_cut(set, begin, end, wanted, shared);
  if (wanted == 0) return;  // every slot has been used now
  unsigned over = 0, among = 0;
  for (int base = 0; base < slot_groups; base += kAtOnce) {
    unsigned age[kAtOnce];
    set.ages(begin + base * 32 + lane, end, age);
#pragma unroll
    for (int g = 0; g < kAtOnce; ++g) {
      const SlotGroup group{__ballot_sync(~0u, cut.over(age[g])), __ballot_sync(~0u, cut.among(age[g]))};
      if (lane == 0 && base + g < slot_groups) slot_masks[base + g] = group;
      over += __popc(group.over), among += __popc(group.among);
    }
  }
  scan.add(static_cast<unsigned long long>(over) << 32 | among);
  const unsigned long long before = scan.before_this_warp();
  over = static_cast<unsigned>(before >> 32), among = static_cast<unsigned>(before);

  // Rows and slots, both by rank, so many for each block at a time.
  const std::byte* staging =
      a.regions.staging.data + blockIdx.z * a.regions.staging.session_stride + head * a.regions.staging.head_stride;
  std::byte* cache =
      a.regions.cache.data + session * a.regions.cache.session_stride + head * a.regions.cache.head_stride;
  const unsigned turns = (wanted + team_size() * kPairs - 1) / (team_size() * kPairs);
  const unsigned share = (wanted + team_size() * turns - 1) / (team_size() * turns);
  for (unsigned base = 0; base < wanted; base += share * team_size()) {
    const unsigned stop = min(wanted, base + share * team_size());
    auto hand = [&](std::int32_t* to, unsigned n, std::int64_t value) {
      if (n >= base && n < stop)
        team_peer(to, (n - base) / share)[(n - base) % share] = static_cast<std::int32_t>(value);
    };
    unsigned next = incoming;
    for (int g = 0; g < list_groups; ++g) {
      const unsigned mask = list_masks[g];
      if (mask >> lane & 1) hand(shared.entry, next + __popc(mask & below), (rank * list_groups + g) * 32 + lane);
      next += __popc(mask);
    }
    unsigned certain = over, doubtful = among;
    for (int g = 0; g < slot_groups; ++g) {
      const SlotGroup group = slot_masks[g];
      const unsigned my_certain = certain + __popc(group.over & below),
                     my_doubtful = doubtful + __popc(group.among & below);
      if ((group.over | group.among) >> lane & 1 && (group.over >> lane & 1 || my_doubtful < cut.quota))
        hand(shared.slot, my_certain + min(my_doubtful, cut.quota), begin + g * 32 + lane);
      certain += __popc(group.over), doubtful += __popc(group.among);
    }
    team_sync();
    const unsigned first = base + team_rank() * share;
    const int pairs = first < stop ? static_cast<int>(min(share, stop - first)) : 0;
    for (int k = threadIdx.x; k < pairs; k += kThreads) {
      const std::int32_t i = shared.entry[k], slot = shared.slot[k], row = rows[i], old = set.row_of[slot];
      if (old >= 0) set.slot_of[old] = -1;
      set.slot_of[row] = slot;
      set.row_of[slot] = row;
      set.used_at[slot] = set.now;
      shared.entry[k] =
          static_cast<std::int32_t>(places == nullptr ? row - a.regions.staging.first : place_index(places[i]));
    }
    __syncthreads();
    copy_rows<8, Unit>(
        pairs, a.row_bytes, threadIdx.x, kThreads, [&](int k) { return staging + shared.entry[k] * a.row_bytes; },
        [&](int k) { return cache + shared.slot[k] * a.row_bytes; }, [](const Unit* at) { return *at; });
    if (base + share * team_size() < wanted) team_sync();  // all have read
  }
}

}  // namespace

unsigned team_blocks(std::int64_t wanted, std::int64_t lists) {
  int device = 0, processors = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  const std::int64_t most = has_hopper_launches() ? kMostTeam : 1;
  unsigned blocks = 1;
  while (2 * blocks <= most && 2 * blocks <= wanted && 2 * blocks * lists <= processors) blocks *= 2;
  return blocks;
}

void retain(const RetainArgs& a, cudaStream_t stream) {
  const std::int64_t lists = a.batch.count * a.kv_heads;
  if (lists == 0 || a.resident.rows == 0) return;
  const unsigned blocks = team_blocks(kMostTeam, lists);
  const std::int64_t entries = std::int64_t{32} * kWarps * blocks;
  const auto list_groups = static_cast<int>(ceil_div(a.rows.stride, entries));
  const auto slot_groups = static_cast<int>(ceil_div(a.resident.rows, entries));
  const Launch launch{.grid = {blocks, static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(a.batch.count)},
                      .block = kThreads,
                      .shared_bytes = kWarps * (list_groups * sizeof(unsigned) + slot_groups * sizeof(SlotGroup)),
                      .stream = stream,
                      .overlap = true,
                      .cluster = blocks};
  with_unit(a.row_bytes, [&]<class Unit>(Unit) { launch(retain_rows<Unit>, a, list_groups, slot_groups); });
}

}  // namespace longhaul::cuda
