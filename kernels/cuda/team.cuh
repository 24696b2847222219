// A team: the blocks of a cluster (Launch::cluster), which run together and read each other's shared memory. Before
// Hopper a team is one block. Device code only.
#pragma once
#include <cooperative_groups.h>

#include <nv/target>

namespace longhaul::cuda {

__device__ inline unsigned team_rank() {
  NV_IF_ELSE_TARGET(NV_PROVIDES_SM_90, (return cooperative_groups::this_cluster().block_rank();), (return 0;))
}
__device__ inline unsigned team_size() {
  NV_IF_ELSE_TARGET(NV_PROVIDES_SM_90, (return cooperative_groups::this_cluster().num_blocks();), (return 1;))
}
/// All threads of all blocks; a block must not end before its peers have read from it.
__device__ inline void team_sync() {
  NV_IF_ELSE_TARGET(NV_PROVIDES_SM_90, (cooperative_groups::this_cluster().sync();), (__syncthreads();))
}
/// `mine`, in this block's shared memory, as it is in the block of that rank.
template <class T>
__device__ T* team_peer(T* mine, unsigned rank) {
  NV_IF_ELSE_TARGET(NV_PROVIDES_SM_90, (return cooperative_groups::this_cluster().map_shared_rank(mine, rank);),
                    (return rank == 0 ? mine : nullptr;))
}

}  // namespace longhaul::cuda
