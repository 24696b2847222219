// How fast a device selects rows, by part: what the figures of selection are measured with.
#pragma once
#include <span>

#include "kernels/device.h"

namespace longhaul {

/// Seconds a layer: of scores (by labels of 4 bits) to keys, of the list of the top rows of one layer's keys, and of
/// both.
struct SelectSeconds {
  double scores, top, whole;
};

/// Runs `layers` in turn, as a step would: one graph, no wait between. The median of several times. CUDA only: throws
/// DeviceError without.
SelectSeconds seconds_to_select(std::span<const SelectArgs> layers);

}  // namespace longhaul
