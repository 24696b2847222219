// Sums over the warps of a team, in order: what ranks the entries of a list that several blocks share. Device code
// only.
#pragma once
#include <cub/block/block_scan.cuh>

#include "kernels/cuda/team.cuh"

namespace longhaul::cuda {

constexpr unsigned kMostTeam = 8;  // blocks that every device with clusters can place together

/// Numbers of the warps of a team, in order of their blocks, added up.
template <int kThreads>
class TeamScan {
 public:
  using Sum = unsigned long long;
  using Scan = cub::BlockScan<Sum, kThreads>;
  struct Shared {
    typename Scan::TempStorage scan;
    Sum parts[2][kMostTeam];  // two in turn: one is read while the next call writes the other
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
    if (threadIdx.x < team_size()) team_peer(parts, threadIdx.x)[team_rank()] = sum;
    team_sync();
    Result result{__shfl_sync(~0u, before, 0), 0};
    for (unsigned p = 0; p < team_size(); ++p) {
      if (p < team_rank()) result.before += parts[p];
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
