// Rows from one set of places to another, by a group of threads: the row movers' inner loop. Device code, and the
// choice of its unit.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace longhaul::cuda {

/// f(Unit{}): what a lane moves at once.
template <class F>
void with_unit(std::int64_t row_bytes, const F& f) {
  if (row_bytes % sizeof(uint4) == 0) f(uint4{});
  else f(unsigned{});
}

/// Thread `me` of `threads`: its share of `count` rows. from(k) and to(k) are the k-th row's first bytes, load(at)
/// reads a unit. kInFlight loads are on their way before the first is used.
template <int kInFlight, class Unit, class From, class To, class Load>
__device__ void copy_rows(int count, std::int64_t row_bytes, int me, int threads, const From& from, const To& to,
                          const Load& load) {
  const int per_row = static_cast<int>(row_bytes / static_cast<std::int64_t>(sizeof(Unit))), all = count * per_row;
  for (int base = me; base < all; base += threads * kInFlight) {
    Unit unit[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int i = base + u * threads;
      if (i < all) unit[u] = load(reinterpret_cast<const Unit*>(from(i / per_row)) + i % per_row);
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int i = base + u * threads;
      if (i < all) reinterpret_cast<Unit*>(to(i / per_row))[i % per_row] = unit[u];
    }
  }
}

}  // namespace longhaul::cuda
