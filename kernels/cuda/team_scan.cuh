// Sums over the warps of a team, in order: what ranks the entries of a list that several blocks share. Device code
// only.
#pragma once
#include <cub/warp/warp_reduce.cuh>

#include "kernels/cuda/team.cuh"

namespace longhaul::cuda {

constexpr unsigned kMostTeam = 8;  // blocks that every device with clusters can place together

/// Every warp of kWarps in each block gives a number; the warps are in order of their blocks.
template <int kWarps>
class TeamScan {
 public:
  using Sum = unsigned long long;
  struct Shared {
    Sum sums[2][kMostTeam * kWarps];  // two in turn: one is read while the next call writes the other
  };

  /// After a team_sync(): then all blocks run.
  __device__ explicit TeamScan(Shared& shared) : shared_(shared) {}

  /// Publishes `mine`, the same in all lanes of a warp. A team_sync().
  __device__ void add(Sum mine) {
    turn_ ^= 1;
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane < team_size()) team_peer(shared_.sums[turn_], lane)[team_rank() * kWarps + warp] = mine;
    team_sync();
  }
  /// The sum over the warps before `warp`, of all blocks. To all lanes.
  __device__ Sum before(unsigned warp) const {
    Sum sum = 0;
    for (unsigned i = threadIdx.x % 32; i < warp; i += 32) sum += shared_.sums[turn_][i];
    typename cub::WarpReduce<Sum>::TempStorage unused;  // shuffles alone
    return __shfl_sync(~0u, cub::WarpReduce<Sum>(unused).Sum(sum), 0);
  }
  __device__ Sum before_this_warp() const { return before(team_rank() * kWarps + threadIdx.x / 32); }
  __device__ Sum before_block(unsigned rank) const { return before(rank * kWarps); }
  __device__ Sum total() const { return before(team_size() * kWarps); }

 private:
  Shared& shared_;
  unsigned turn_ = 0;
};

}  // namespace longhaul::cuda
