#include "runtime/plan/peaks.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/base/clock.h"
#include "runtime/engine/pinned_memory.h"

namespace longhaul {
namespace {

constexpr std::int64_t kHeads = 32, kKvHeads = 8, kHeadDim = 128;

RandomFillArgs noise(void* out, std::int64_t count, std::uint64_t seed) {
  return {.out = out, .type = DType::bf16, .count = count, .seed = seed};
}

/// Of `times` runs after one to warm up, the shortest first.
std::vector<double> runs_on(Device& device, const std::function<void(Stream&)>& enqueue, int times) {
  auto stream = device.make_stream("bench");
  auto done = device.make_event();
  std::vector<double> seconds;
  for (int i = -1; i < times; ++i) {  // the first warms up
    const auto start = std::chrono::steady_clock::now();
    enqueue(*stream);
    stream->record(*done);
    device.host_wait(*done, {"bench"});
    if (i >= 0) seconds.push_back(seconds_since(start));
  }
  std::ranges::sort(seconds);
  return seconds;
}

}  // namespace

double seconds_on(Device& device, const std::function<void(Stream&)>& enqueue, int times) {
  const std::vector<double> seconds = runs_on(device, enqueue, times);
  return seconds[seconds.size() / 2];
}

double copy_bandwidth(Device& device, std::int64_t bytes, int times) {
  constexpr int kCopies = 8;
  const Buffer from = device.allocate(bytes, "bench"), to = device.allocate(bytes, "bench");
  const double seconds = seconds_on(
      device,
      [&](Stream& stream) {
        stream.launch(noise(from.data(), 64, 1));
        for (int i = 0; i < kCopies; ++i) stream.copy({.dst = to.data(), .src = from.data(), .width = bytes});
      },
      times);
  return 2.0 * static_cast<double>(bytes) * kCopies / seconds;
}

double link_bandwidth(Device& device, CopyKind kind, std::int64_t bytes, int times) {
  constexpr int kCopies = 4;
  const PinnedMemory host(device, bytes, {});
  const Buffer there = device.allocate(bytes, "bench");
  const bool down = kind == CopyKind::device_to_host;
  const std::vector<double> seconds = runs_on(
      device,
      [&](Stream& stream) {
        for (int i = 0; i < kCopies; ++i)
          stream.copy({.dst = down ? host.data() : there.data(),
                       .src = down ? there.data() : host.data(),
                       .width = bytes,
                       .kind = kind});
      },
      times);
  return static_cast<double>(bytes) * kCopies / seconds.front();
}

double product_rate(Device& device, std::int64_t n, int products, int times) {
  const Buffer x = device.allocate(2 * n * n, "bench"), w = device.allocate(2 * n * n, "bench"),
               out = device.allocate(2 * n * n, "bench");
  const double seconds = seconds_on(
      device,
      [&](Stream& stream) {
        stream.launch(noise(x.data(), n * n, 1));
        stream.launch(noise(w.data(), n * n, 2));
        for (int i = 0; i < products; ++i)
          stream.launch(LinearArgs{.x = x.data(),
                                   .w = reinterpret_cast<const bf16*>(w.data()),
                                   .out = out.data(),
                                   .act = DType::bf16,
                                   .out_type = DType::bf16,
                                   .accumulate = false,
                                   .tokens = n,
                                   .in = n,
                                   .out_dim = n});
      },
      times);
  const double side = static_cast<double>(n);
  return products * 2 * side * side * side / seconds;
}

std::int64_t attention_bytes(std::int64_t tokens) {
  const std::int64_t q = tokens * kHeads * kHeadDim;
  return 2 * q + 4 * q + 2 * q + tokens * kKvHeads * 2 * kHeadDim * 2 + 2 * 4 * tokens * kHeads + 8 * 256;
}

double attention_rate(Device& device, std::int64_t tokens, int times) {
  const std::int64_t width = kHeads * kHeadDim, kv_count = tokens * kKvHeads * 2 * kHeadDim;
  const Buffer q = device.allocate(2 * tokens * width, "bench"), out = device.allocate(2 * tokens * width, "bench"),
               kv = device.allocate(2 * kv_count, "bench"), scratch = device.allocate(4 * tokens * width, "bench"),
               state = device.allocate(2 * 4 * tokens * kHeads, "bench");
  auto* const m = reinterpret_cast<float*>(state.data());
  const AttendArgs args{.q = q.data(),
                        .q_stride = width,
                        .kv = {kv.data(), tokens * 2 * kHeadDim * 2, 0, tokens},
                        .state = {reinterpret_cast<float*>(scratch.data()), m, m + tokens * kHeads},
                        .out = out.data(),
                        .act = DType::bf16,
                        .tokens = tokens,
                        .q_heads = kHeads,
                        .kv_heads = kKvHeads,
                        .head_dim = kHeadDim,
                        .q_pos = 0,
                        .scale = 1 / std::sqrt(static_cast<float>(kHeadDim))};
  constexpr int kCalls = 4;
  const double seconds = seconds_on(
      device,
      [&](Stream& stream) {
        stream.launch(noise(q.data(), tokens * width, 1));
        stream.launch(noise(kv.data(), kv_count, 2));
        for (int i = 0; i < kCalls; ++i) stream.launch(args);
      },
      times);
  const double n = static_cast<double>(tokens);
  return kCalls * 2 * n * (n + 1) * static_cast<double>(width) / seconds;
}

double pin_rate(Device& device, std::int64_t bytes) {
  const auto start = std::chrono::steady_clock::now();
  const PinnedMemory host(device, bytes, {});
  return static_cast<double>(bytes) / seconds_since(start);
}

}  // namespace longhaul
