// The ways of gather, and what its launches share. Owned by the device's Machine; one stream at a time.
#pragma once
#include <cuda_runtime_api.h>

#include "kernels/cuda/gather_ring.h"
#include "kernels/sparse_ops.h"

namespace longhaul::cuda {

constexpr int kMostSlotsOfBlock = 32;
constexpr unsigned kHostBlocks = 16;    // that take rows out of the ring
constexpr unsigned kDeviceBlocks = 32;  // that read the host's memory row by row

/// In device memory, zero at first and between launches but for `requests`.
struct GatherQueue {
  unsigned long long taken;                            // chunks from the front (low half) and from the back
  unsigned finished;                                   // blocks
  unsigned requests[kMostSlotsOfBlock * kHostBlocks];  // of each slot, ever
};

struct GatherRoutes {
  float host_share;        // of the chunks, that host threads gather at most; 0: none, 1: all
  unsigned device_blocks;  // that read the host's memory themselves
  GatherRing ring;         // where host_share > 0
  GatherQueue* queue;
  unsigned long long* bytes;  // += bytes brought
};

struct GatherBlocks {
  unsigned of_host, of_device;
};
/// Those of a launch.
inline GatherBlocks blocks_of(const GatherRoutes& routes) {
  return {routes.host_share > 0 ? kHostBlocks : 0, routes.host_share < 1 ? routes.device_blocks : 0};
}

void gather(const GatherArgs&, const GatherRoutes&, int* fault, cudaStream_t);

}  // namespace longhaul::cuda
