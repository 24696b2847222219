// The blocks that work on one list together: a thread block cluster, where the device has them, or a single block. Part
// p of the team is its p-th block, along x. Device code only.
#pragma once
#include <cooperative_groups.h>

#include <cub/block/block_scan.cuh>
#include <nv/target>

namespace longhaul::cuda {

constexpr unsigned kMostParts = 8;  // of a cluster that every device with clusters can place

__device__ inline unsigned team_parts() {
  NV_IF_ELSE_TARGET(NV_PROVIDES_SM_90, (return cooperative_groups::this_cluster().num_blocks();), (return 1;))
}
__device__ inline unsigned team_part() {
  NV_IF_ELSE_TARGET(NV_PROVIDES_SM_90, (return cooperative_groups::this_cluster().block_rank();), (return 0;))
}
/// What any thread of the team wrote before, to shared or device memory, all see after.
__device__ inline void team_sync() {
  NV_IF_ELSE_TARGET(NV_PROVIDES_SM_90, (cooperative_groups::this_cluster().sync();), (__syncthreads();))
}
/// The same shared variable in the block of `part`.
template <class T>
__device__ T* team_peer(T* shared, unsigned part) {
  NV_IF_ELSE_TARGET(NV_PROVIDES_SM_90, (return cooperative_groups::this_cluster().map_shared_rank(shared, part);),
                    (return shared;))
}

/// Numbers of the team's warps, in order of their parts, added up.
template <int kThreads>
class TeamScan {
 public:
  using Sum = unsigned long long;
  using Scan = cub::BlockScan<Sum, kThreads>;
  struct Shared {
    typename Scan::TempStorage scan;
    Sum parts[2][kMostParts];  // two in turn: one is read while the next call writes the other
  };
  struct Result {
    Sum before, total;
  };

  __device__ explicit TeamScan(Shared& shared) : shared_(shared) {}

  /// Of `mine`, the same in all lanes of a warp: the sum over the warps before, and over all. A team_sync().
  __device__ Result operator()(Sum mine) {
    Sum before, sum;
    Scan(shared_.scan).ExclusiveSum(threadIdx.x % 32 == 0 ? mine : 0, before, sum);
    Sum* parts = shared_.parts[turn_];
    turn_ ^= 1;
    if (threadIdx.x < team_parts()) team_peer(parts, threadIdx.x)[team_part()] = sum;
    team_sync();
    Result result{__shfl_sync(~0u, before, 0), 0};
    for (unsigned p = 0; p < team_parts(); ++p) {
      if (p < team_part()) result.before += parts[p];
      result.total += parts[p];
    }
    return result;
  }
  /// Of the latest call: the sum over the parts before `part`.
  __device__ Sum before_part(unsigned part) const {
    Sum sum = 0;
    for (unsigned p = 0; p < part; ++p) sum += shared_.parts[turn_ ^ 1][p];
    return sum;
  }

 private:
  Shared& shared_;
  unsigned turn_ = 0;
};

}  // namespace longhaul::cuda
