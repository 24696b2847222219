// retain: a team of blocks per (token, KV head). It marks the resident rows of the list and notes where in the list the
// incoming ones are, as a bit mask with ranks; finds the age from which on slots are given away, by a histogram of
// ages; and walks the slots in order: the i-th chosen slot takes the i-th incoming row.
#include "kernels/base/bytes.h"
#include "kernels/cuda/copy_rows.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/team_scan.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32, kBinsOfThread = 4, kBins = kBinsOfThread * kThreads;
constexpr unsigned kEmpty = ~0u;  // the age of a slot that holds no row: the greatest
using Scan = TeamScan<kThreads>;

/// 32 entries of a list: which are incoming, and how many are in the part's groups before.
struct Group {
  unsigned mask, rank;
};

struct Shared {
  typename Scan::Shared scan;
  typename Scan::Scan::TempStorage bins;
  unsigned count[kBins], total[kBins];  // of slots by age: this part's, and in part 0 the team's
  unsigned bin, above, in_bin;
  std::int32_t from[kWarps][32], to[kWarps][32];
};

/// One KV head of one session's resident set.
struct Head {
  std::int32_t *slot_of, *row_of, *used_at;
  std::int32_t now;

  __device__ unsigned age(std::int64_t slot) const {  // 0: used now
    const unsigned since = static_cast<unsigned>(now) - static_cast<unsigned>(used_at[slot]);
    return row_of[slot] < 0 ? kEmpty : since;
  }
};

/// The n-th incoming row's index in the list, by the groups of all parts.
__device__ std::int64_t incoming(unsigned n, Group* groups, int groups_of_part, const unsigned* first_of_part) {
  unsigned part = 0;
  for (unsigned p = 1; p < team_size(); ++p)
    if (first_of_part[p] <= n) part = p;
  const Group* theirs = team_peer(groups, part);
  n -= first_of_part[part];
  int at = 0, step = 1;
  while (2 * step < groups_of_part) step *= 2;
  for (; step > 0; step /= 2)
    if (at + step < groups_of_part && theirs[at + step].rank <= n) at += step;
  const Group group = theirs[at];
  unsigned mask = group.mask;
  for (n -= group.rank; n > 0; --n) mask &= mask - 1;
  return (std::int64_t{part} * groups_of_part + at) * 32 + __ffs(static_cast<int>(mask)) - 1;
}

template <class Unit>
__global__ void __launch_bounds__(kThreads, 1)
    retain_rows(const __grid_constant__ RetainArgs a, int groups_of_warp, int slots_of_warp) {
  __shared__ Shared shared;
  __shared__ unsigned first_of_part[kMostTeam];
  extern __shared__ Group groups[];  // [kWarps * groups_of_warp]
  wait_for_previous();
  let_next_start();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int rank = static_cast<int>(team_rank()) * kWarps + warp;
  const unsigned below = (1u << lane) - 1;
  const std::int64_t head = blockIdx.y, list = blockIdx.z * a.kv_heads + head, slots = a.resident.rows;
  const StepSpan span = a.batch.spans[blockIdx.z];
  const std::int32_t* rows = a.rows.rows + list * a.rows.stride;
  const std::int32_t* places = a.places == nullptr ? nullptr : a.places + list * a.rows.stride;
  const int count = a.rows.count[list];
  const std::int64_t session = span.slot;
  const Head set{a.resident.slot_of + session * a.resident.slot_of_session + head * a.resident.stride,
                 a.resident.row_of + session * a.resident.row_of_session + head * slots,
                 a.resident.used_at + session * a.resident.row_of_session + head * slots, span.rows};
  for (int i = threadIdx.x; i < kBins; i += kThreads) shared.count[i] = shared.total[i] = 0;
  team_sync();  // all blocks run

  // The list. Groups past its end are empty.
  Group* mine = groups + warp * groups_of_warp;
  unsigned found = 0;
#pragma unroll 4
  for (int g = 0; g < groups_of_warp; ++g) {
    const int i = (rank * groups_of_warp + g) * 32 + lane;
    bool wanted = false;
    if (i < count) {
      const std::int32_t r = rows[i], slot = set.slot_of[r];
      if (slot >= 0) set.used_at[slot] = set.now;
      else
        wanted =
            (places == nullptr || place_region(places[i]) == Region::staging) && r >= a.begin && r < span.ring_first;
    }
    const unsigned mask = __ballot_sync(~0u, wanted);
    if (lane == 0) mine[g] = {mask, found};
    found += __popc(mask);
  }
  Scan scan(shared.scan);
  const auto [before, arrived] = scan(found);
  if (arrived == 0) return;
  const auto first = static_cast<unsigned>(before - scan.before_part(team_rank()));
  for (int g = lane; g < groups_of_warp; g += 32) mine[g].rank += first;
  if (threadIdx.x < team_size()) first_of_part[threadIdx.x] = static_cast<unsigned>(scan.before_part(threadIdx.x));

  // The age from which on slots are given away: `wanted` slots are that old or older, counted from the lowest of those
  // of just that age. Of ages in [low, high] a bin holds 2^shift, the last but one all that are left, the last kEmpty.
  const std::int64_t slot_begin = std::int64_t{rank} * slots_of_warp;
  const std::int64_t slot_end = slot_begin + slots_of_warp < slots ? slot_begin + slots_of_warp : slots;
  unsigned low = 1, high = kEmpty, shift = 0, quota = 0, wanted = static_cast<unsigned>(arrived);
  for (bool start = true;; start = false) {
    __syncthreads();  // the bins are zero
#pragma unroll 4
    for (std::int64_t s = slot_begin + lane; s < slot_begin + slots_of_warp; s += 32) {
      const unsigned age = s < slot_end ? set.age(s) : 0;
      const bool in = age >= low && age <= high;
      const unsigned bin = age == kEmpty ? kBins - 1 : min((age - low) >> shift, kBins - 2u);
      // Most slots of a warp often have one age: then one addition serves all.
      const unsigned some = __ballot_sync(~0u, in);
      if (some == 0) continue;
      const int leader = __ffs(static_cast<int>(some)) - 1;
      const unsigned common = __shfl_sync(~0u, bin, leader), alike = __ballot_sync(~0u, in && bin == common);
      if (lane == leader) atomicAdd(&shared.count[common], __popc(alike));
      else if (in && bin != common) atomicAdd(&shared.count[bin], 1);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kBins; i += kThreads)
      if (shared.count[i] > 0) atomicAdd(team_peer(shared.total, 0) + i, shared.count[i]);
    team_sync();
    const unsigned* total = team_peer(shared.total, 0);
    Scan::Sum bins[kBinsOfThread], above[kBinsOfThread], all;
    const int top = kBins - 1 - kBinsOfThread * static_cast<int>(threadIdx.x);  // the oldest first
#pragma unroll
    for (int b = 0; b < kBinsOfThread; ++b) bins[b] = total[top - b];
    typename Scan::Scan(shared.bins).ExclusiveSum(bins, above, all);
    if (start) quota = wanted = static_cast<unsigned>(all < wanted ? all : wanted);
#pragma unroll
    for (int b = 0; b < kBinsOfThread; ++b)
      if (above[b] < quota && quota <= above[b] + bins[b])
        shared.bin = top - b, shared.above = static_cast<unsigned>(above[b]),
        shared.in_bin = static_cast<unsigned>(bins[b]);
    team_sync();              // the team's bins have been read
    if (wanted == 0) return;  // every slot has been used now
    quota -= shared.above;
    const unsigned bin = shared.bin;
    if (bin == kBins - 1) {
      low = kEmpty;
      break;
    }
    low += bin << shift;
    if (bin < kBins - 2) high = min(high - low, (1u << shift) - 1) + low;
    else if (high == kEmpty) --high;
    if (low == high || shared.in_bin == quota) break;  // exact, or all of the bin
    shift = high - low < kBins - 2 ? 0 : 32 - __clz(static_cast<int>(high - low)) - 10;
    for (int i = threadIdx.x; i < kBins; i += kThreads) shared.count[i] = shared.total[i] = 0;
    team_sync();
  }
  // Chosen: all of an age over `high`, and the first `quota` in [low, high].
  if (low == kEmpty) high = kEmpty;

  unsigned over = 0, among = 0;
#pragma unroll 4
  for (std::int64_t s = slot_begin + lane; s < slot_begin + slots_of_warp; s += 32) {
    const unsigned age = s < slot_end ? set.age(s) : 0;
    over += __popc(__ballot_sync(~0u, age > high));
    among += __popc(__ballot_sync(~0u, age >= low && age <= high));
  }
  Scan::Sum ranks = scan(Scan::Sum{over} << 32 | among).before;
  over = static_cast<unsigned>(ranks >> 32), among = static_cast<unsigned>(ranks);

  const std::byte* staging =
      a.regions.staging.data + blockIdx.z * a.regions.staging.session_stride + head * a.regions.staging.head_stride;
  std::byte* cache =
      a.regions.cache.data + session * a.regions.cache.session_stride + head * a.regions.cache.head_stride;
  for (std::int64_t s = slot_begin + lane; s < slot_begin + slots_of_warp; s += 32) {
    const unsigned age = s < slot_end ? set.age(s) : 0;
    const unsigned overs = __ballot_sync(~0u, age > high), amongs = __ballot_sync(~0u, age >= low && age <= high);
    const unsigned among_before = among + __popc(amongs & below);
    const bool chosen = age > high || (amongs >> lane & 1 && among_before < quota);
    const unsigned all = __ballot_sync(~0u, chosen);
    if (chosen) {
      const std::int64_t i = incoming(over + __popc(overs & below) + min(among_before, quota), groups,
                                      kWarps * groups_of_warp, first_of_part);
      const std::int32_t row = rows[i], old = set.row_of[s];
      if (old >= 0) set.slot_of[old] = -1;
      set.slot_of[row] = static_cast<std::int32_t>(s);
      set.row_of[s] = row;
      set.used_at[s] = set.now;
      const int at = __popc(all & below);
      shared.to[warp][at] = static_cast<std::int32_t>(s);
      shared.from[warp][at] = places == nullptr ? static_cast<std::int32_t>(row - a.regions.staging.first)
                                                : static_cast<std::int32_t>(place_index(places[i]));
    }
    __syncwarp();
    copy_rows<Unit>(
        __popc(all), a.row_bytes, lane, 32, [&](int k) { return staging + shared.from[warp][k] * a.row_bytes; },
        [&](int k) { return cache + shared.to[warp][k] * a.row_bytes; }, [](const Unit* at) { return *at; });
    __syncwarp();
    over += __popc(overs), among += __popc(amongs);
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
  const unsigned parts = team_blocks(kMostTeam, lists);
  const auto groups = static_cast<int>(ceil_div(a.rows.stride, 32 * kWarps * parts));
  const auto slots = static_cast<int>(ceil_div(a.resident.rows, 32 * kWarps * parts) * 32);
  const Launch launch{.grid = {parts, static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(a.batch.count)},
                      .block = kThreads,
                      .shared_bytes = kWarps * groups * sizeof(Group),
                      .stream = stream,
                      .overlap = true,
                      .cluster = parts};
  with_unit(a.row_bytes, [&]<class Unit>(Unit) { launch(retain_rows<Unit>, a, groups, slots); });
}

}  // namespace longhaul::cuda
