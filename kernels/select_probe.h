// How fast a device selects rows, by part: what the figures of selection are measured with.
#pragma once
#include <span>

#include "kernels/device.h"

namespace longhaul {

/// Seconds a layer: of scores (by labels of 4 bits) to keys, and of the whole, the list of the top rows included.
struct SelectSeconds {
  double scores, whole;
};

/// Runs `layers` in turn, as a step would: one graph, no wait between. The median of several times. CUDA only: throws
/// DeviceError without.
SelectSeconds seconds_to_select(std::span<const SelectArgs> layers);

}  // namespace longhaul
