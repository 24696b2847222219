// What a device can do at most, measured in the same run as what is compared with it. Needs a few GiB of its budget.
#pragma once
#include <functional>

#include "kernels/device.h"

namespace longhaul::bench {

/// Seconds of what `enqueue` puts on a stream: the median of `times` runs, each waited for.
double seconds_on(Device& device, const std::function<void(Stream&)>& enqueue, int times);

double copy_bandwidth(Device& device);                 // bytes/s read and written by a device copy
double link_bandwidth(Device& device, CopyKind kind);  // bytes/s, one large copy of pinned memory
double product_rate(Device& device);                   // FLOP/s, bf16, 8192 x 8192 x 8192 of random data

}  // namespace longhaul::bench
