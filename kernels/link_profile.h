// What a machine's link between host and device can do, and which way rows take over it. Measured by measure_link()
// (cuda_device.h), kept in the machine profile.
#pragma once
#include <cstdint>

namespace longhaul {

/// The ways of gather: the device reads the host's memory row by row; host threads put rows together that the device
/// then reads in one run; or both at once.
enum class GatherRoute : std::uint8_t { zero_copy, host, both };

struct GatherChoice {
  GatherRoute route = GatherRoute::zero_copy;
  double host_share = 0;  // of the rows, what the host's threads gather at most; with `both`
  int host_threads = 0;   // 0: all cores but two
  bool operator==(const GatherChoice&) const = default;
};

struct LinkProfile {
  double h2d_GBps = 0, d2h_GBps = 0;  // one large copy at a time, 10^9 bytes a second
  // Rows of 512 bytes a second: in a run, scattered, and scattered through the host's threads alone and both ways.
  double zero_copy_run = 0, zero_copy_scattered = 0, host_scattered = 0, both_scattered = 0;
  GatherChoice gather;  // the fastest for scattered rows
};

}  // namespace longhaul
