// What a device can do at most: rates of large pieces of work, each waited for. Sizes are the caller's: what fills a
// GPU takes a CPU minutes.
#pragma once
#include <functional>

#include "kernels/device.h"

namespace longhaul {

/// Seconds of what `enqueue` puts on a stream: the median of `times` runs, each waited for, after one to warm up.
double seconds_on(Device& device, const std::function<void(Stream&)>& enqueue, int times);

/// Bytes/s read and written by copies within the device's memory. Takes 2 * bytes of it.
double copy_bandwidth(Device& device, std::int64_t bytes = std::int64_t{2} << 30, int times = 5);
/// Bytes/s of large copies between pinned memory and the device, of the fastest run, for other guests of a host may be
/// on the link. Takes `bytes` of both.
double link_bandwidth(Device& device, CopyKind kind, std::int64_t bytes = std::int64_t{1} << 30, int times = 5);
/// FLOP/s of bf16 products n x n x n of random data. Takes 6 * n * n bytes.
double product_rate(Device& device, std::int64_t n = 8192, int products = 40, int times = 3);
/// FLOP/s of causal prefill attention of `tokens` tokens, bf16, 32 heads and 8 KV heads of 128. Takes
/// attention_bytes(tokens).
double attention_rate(Device& device, std::int64_t tokens, int times = 3);
std::int64_t attention_bytes(std::int64_t tokens);
/// Bytes/s of making host memory that the device reaches: mapped, touched and registered.
double pin_rate(Device& device, std::int64_t bytes);

}  // namespace longhaul
