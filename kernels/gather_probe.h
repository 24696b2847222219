// How fast a device gathers rows: what the link's measurement and the figures share.
#pragma once
#include "kernels/device.h"

namespace longhaul {

/// Layers of heads of rows, one after the other in pinned memory, of which `listed` rows of every head are gathered:
/// any, or those of a run. A layer's rows are long out of every cache when it comes again, if the store is large.
struct GatherProbe {
  std::int64_t layers, heads, rows, listed, row_bytes;
  bool scattered = true;
  std::int64_t store_bytes() const { return layers * heads * rows * row_bytes; }
  std::int64_t gathered_bytes() const { return layers * heads * listed * row_bytes; }
};

/// Seconds for all layers, the best of three times. Takes heads * listed * row_bytes of device memory, and the lists'.
double seconds_to_gather(Device& device, const GatherProbe& probe, std::byte* store);

}  // namespace longhaul
