// retain: a team of blocks per (token, KV head). It marks the resident rows of the list and notes which of the others
// are incoming; finds the age from which on slots are given away, by a histogram of ages; notes the chosen slots; and
// brings the i-th incoming row to the i-th chosen slot.
#include "kernels/base/bytes.h"
#include "kernels/cuda/copy_rows.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/team_scan.cuh"

#include <cub/block/block_scan.cuh>

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32, kBinsOfThread = 4, kBins = kBinsOfThread * kThreads;
constexpr int kAtOnce = 8;        // groups of 32 entries that a warp loads before it uses the first
constexpr unsigned kEmpty = ~0u;  // the age of a slot that holds no row: the greatest
using BinScan = cub::BlockScan<unsigned, kThreads>;

/// Of 32 entries the noted ones, and how many the block has noted before them.
struct Group {
  unsigned mask, rank;
};

/// The n-th noted entry of a block's groups.
__device__ int noted(const Group* groups, int count, unsigned n) {
  int at = 0, step = 1;
  while (2 * step < count) step *= 2;
  for (; step > 0; step /= 2)
    if (at + step < count && groups[at + step].rank <= n) at += step;
  const Group group = groups[at];
  unsigned mask = group.mask;
  for (n -= group.rank; n > 0; --n) mask &= mask - 1;
  return at * 32 + __ffs(static_cast<int>(mask)) - 1;
}

struct Shared {
  TeamScan<kWarps>::Shared scan;
  BinScan::TempStorage bins;
  unsigned count[kBins], total[kBins];  // of slots by age: this block's, and in block 0 the team's
  unsigned bin, above, in_bin;
  unsigned incoming_before[kMostTeam];  // each block
  std::int32_t from[kThreads], to[kThreads];
};

/// One KV head of one session's resident set.
struct Head {
  std::int32_t *slot_of, *row_of, *used_at;
  std::int32_t now;
  std::int64_t slots;

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
  Cut cut{1, kEmpty, 0};
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
    const unsigned* total = team_peer(shared.total, 0);
    unsigned bins[kBinsOfThread], above[kBinsOfThread], all;
    const int top = kBins - 1 - kBinsOfThread * static_cast<int>(threadIdx.x);  // the oldest first
#pragma unroll
    for (int b = 0; b < kBinsOfThread; ++b) bins[b] = total[top - b];
    BinScan(shared.bins).ExclusiveSum(bins, above, all);
    if (start) cut.quota = wanted = min(all, wanted);
#pragma unroll
    for (int b = 0; b < kBinsOfThread; ++b)
      if (above[b] < cut.quota && cut.quota <= above[b] + bins[b])
        shared.bin = top - b, shared.above = above[b], shared.in_bin = bins[b];
    team_sync();  // the team's bins have been read
    if (wanted == 0) return cut;
    cut.quota -= shared.above;
    const unsigned bin = shared.bin;
    if (bin == kBins - 1) return {kEmpty, kEmpty, cut.quota};
    cut.low += bin << shift;
    if (bin < kBins - 2) cut.high = min(cut.high - cut.low, (1u << shift) - 1) + cut.low;
    else if (cut.high == kEmpty) --cut.high;
    if (cut.low == cut.high || shared.in_bin == cut.quota) return cut;  // exact, or all of the bin
    shift = cut.high - cut.low < kBins - 2 ? 0 : 32 - __clz(static_cast<int>(cut.high - cut.low)) - 10;
    for (int i = threadIdx.x; i < kBins; i += kThreads) shared.count[i] = shared.total[i] = 0;
    team_sync();
  }
}

template <class Unit>
__global__ void __launch_bounds__(kThreads, 1)
    retain_rows(const __grid_constant__ RetainArgs a, int list_groups, int slot_groups) {  // groups of a warp
  __shared__ Shared shared;
  extern __shared__ Group groups[];  // [kWarps * list_groups] of the list, [kWarps * slot_groups] of the slots
  wait_for_previous();
  let_next_start();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int rank = static_cast<int>(team_rank()) * kWarps + warp;
  const std::int64_t head = blockIdx.y, list = blockIdx.z * a.kv_heads + head, slots = a.resident.rows;
  const StepSpan span = a.batch.spans[blockIdx.z];
  const int count = a.rows.count[list];
  const std::int32_t* rows = a.rows.rows + list * a.rows.stride;
  const std::int32_t* places = a.places == nullptr ? nullptr : a.places + list * a.rows.stride;
  const std::int64_t session = span.slot;
  const Head set{a.resident.slot_of + session * a.resident.slot_of_session + head * a.resident.stride,
                 a.resident.row_of + session * a.resident.row_of_session + head * slots,
                 a.resident.used_at + session * a.resident.row_of_session + head * slots, span.rows, slots};
  for (int i = threadIdx.x; i < kBins; i += kThreads) shared.count[i] = shared.total[i] = 0;

  // The list. Groups past its end are empty.
  Group* mine = groups + warp * list_groups;
  unsigned found = 0;
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
      if (lane == 0 && begin + g < list_groups) mine[begin + g] = {mask, found};
      found += __popc(mask);
    }
  }
  team_sync();
  TeamScan<kWarps> scan(shared.scan);
  scan.add(found);
  auto wanted = static_cast<unsigned>(scan.total());
  if (wanted == 0) return;
  const auto before = static_cast<unsigned>(scan.before_this_warp() - scan.before_block(team_rank()));
  for (int g = lane; g < list_groups; g += 32) mine[g].rank += before;
  if (warp < static_cast<int>(team_size())) {
    const auto first = static_cast<unsigned>(scan.before_block(warp));
    if (lane == 0) shared.incoming_before[warp] = first;
  }

  // The slots.
  const std::int64_t block_begin = std::int64_t{team_rank()} * kWarps * slot_groups * 32;
  const std::int64_t begin = std::int64_t{rank} * slot_groups * 32;
  const std::int64_t end = begin + slot_groups * 32 < slots ? begin + slot_groups * 32 : slots;
  const Cut cut = find_cut(set, begin, end, wanted, shared);
  if (wanted == 0) return;  // every slot has been used now
  unsigned over = 0, among = 0;
  for (std::int64_t s = begin + lane; s - lane < end; s += 32 * kAtOnce) {
    unsigned age[kAtOnce];
    set.ages(s, end, age);
#pragma unroll
    for (int g = 0; g < kAtOnce; ++g)
      over += __popc(__ballot_sync(~0u, cut.over(age[g]))), among += __popc(__ballot_sync(~0u, cut.among(age[g])));
  }
  scan.add(static_cast<unsigned long long>(over) << 32 | among);
  // How many slots are chosen before a warp or block.
  auto chosen_before = [&](unsigned long long ranks) {
    return static_cast<unsigned>(ranks >> 32) + min(static_cast<unsigned>(ranks), cut.quota);
  };
  const unsigned first_chosen = chosen_before(scan.before_block(team_rank()));
  const unsigned chosen = chosen_before(scan.before_block(team_rank() + 1)) - first_chosen;
  among = static_cast<unsigned>(scan.before_this_warp());
  unsigned next = chosen_before(scan.before_this_warp()) - first_chosen;
  Group* slot_bits = groups + kWarps * list_groups;
  for (int g = lane; g < slot_groups; g += 32) slot_bits[warp * slot_groups + g] = {0, chosen};  // those past the end
  __syncwarp();
  for (std::int64_t s = begin + lane; s - lane < end; s += 32 * kAtOnce) {
    unsigned age[kAtOnce];
    set.ages(s, end, age);
#pragma unroll
    for (int g = 0; g < kAtOnce; ++g) {
      const unsigned amongs = __ballot_sync(~0u, cut.among(age[g]));
      const bool in_quota = among + __popc(amongs & ((1u << lane) - 1)) < cut.quota;
      const unsigned mask = __ballot_sync(~0u, cut.over(age[g]) || (cut.among(age[g]) && in_quota));
      const std::int64_t group = (s - lane - block_begin) / 32 + g;
      if (lane == 0 && group < (warp + 1) * slot_groups) slot_bits[group] = {mask, next};
      next += __popc(mask), among += __popc(amongs);
    }
  }
  __syncthreads();

  // The rows, a slot for each thread at a time.
  const std::byte* staging =
      a.regions.staging.data + blockIdx.z * a.regions.staging.session_stride + head * a.regions.staging.head_stride;
  std::byte* cache =
      a.regions.cache.data + session * a.regions.cache.session_stride + head * a.regions.cache.head_stride;
  for (unsigned base = 0; base < chosen; base += kThreads) {
    const unsigned n = base + threadIdx.x;
    if (n < chosen) {
      const unsigned arrival = first_chosen + n;
      unsigned block = 0;
      for (unsigned p = 1; p < team_size(); ++p)
        if (shared.incoming_before[p] <= arrival) block = p;
      const std::int64_t i =
          std::int64_t{block} * kWarps * list_groups * 32 +
          noted(team_peer(groups, block), kWarps * list_groups, arrival - shared.incoming_before[block]);
      const std::int64_t slot = block_begin + noted(slot_bits, kWarps * slot_groups, n);
      const std::int32_t row = rows[i], old = set.row_of[slot];
      if (old >= 0) set.slot_of[old] = -1;
      set.slot_of[row] = static_cast<std::int32_t>(slot);
      set.row_of[slot] = row;
      set.used_at[slot] = set.now;
      shared.to[threadIdx.x] = static_cast<std::int32_t>(slot);
      shared.from[threadIdx.x] =
          static_cast<std::int32_t>(places == nullptr ? row - a.regions.staging.first : place_index(places[i]));
    }
    __syncthreads();
    copy_rows<8, Unit>(
        static_cast<int>(min(chosen - base, unsigned{kThreads})), a.row_bytes, threadIdx.x, kThreads,
        [&](int k) { return staging + shared.from[k] * a.row_bytes; },
        [&](int k) { return cache + shared.to[k] * a.row_bytes; }, [](const Unit* at) { return *at; });
    __syncthreads();
  }
  team_sync();  // no block ends while another reads its groups
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
                      .shared_bytes = kWarps * static_cast<std::size_t>(list_groups + slot_groups) * sizeof(Group),
                      .stream = stream,
                      .overlap = true,
                      .cluster = blocks};
  with_unit(a.row_bytes, [&]<class Unit>(Unit) { launch(retain_rows<Unit>, a, list_groups, slot_groups); });
}

}  // namespace longhaul::cuda
