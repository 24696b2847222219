#include "bench/peaks.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/base/host_memory.h"

namespace longhaul::bench {
namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

}  // namespace

double seconds_on(Device& device, const std::function<void(Stream&)>& enqueue, int times) {
  auto stream = device.make_stream("bench");
  auto done = device.make_event();
  std::vector<double> seconds;
  for (int i = -1; i < times; ++i) {  // the first warms up
    const auto start = std::chrono::steady_clock::now();
    enqueue(*stream);
    stream->record(*done);
    device.host_wait(*done, {"bench"});
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (i >= 0) seconds.push_back(took.count());
  }
  std::ranges::sort(seconds);
  return seconds[seconds.size() / 2];
}

double copy_bandwidth(Device& device) {
  constexpr std::int64_t kBytes = 2 * kGiB;
  constexpr int kCopies = 8;
  const Buffer from = device.allocate(kBytes, "bench"), to = device.allocate(kBytes, "bench");
  const double seconds = seconds_on(
      device,
      [&](Stream& stream) {
        stream.launch(RandomFillArgs{.out = from.data(), .type = DType::f32, .count = 64, .seed = 1});
        for (int i = 0; i < kCopies; ++i) stream.copy({.dst = to.data(), .src = from.data(), .width = kBytes});
      },
      5);
  return 2.0 * kBytes * kCopies / seconds;
}

double link_bandwidth(Device& device, CopyKind kind) {
  constexpr std::int64_t kBytes = kGiB;
  HostMemory host(kBytes, "bench", {.touch = true});
  device.pin(host.data(), kBytes);
  const Buffer there = device.allocate(kBytes, "bench");
  const bool down = kind == CopyKind::device_to_host;
  const double seconds = seconds_on(
      device,
      [&](Stream& stream) {
        for (int i = 0; i < 4; ++i)
          stream.copy({.dst = down ? host.data() : there.data(),
                       .src = down ? there.data() : host.data(),
                       .width = kBytes,
                       .kind = kind});
      },
      3);
  device.unpin(host.data());
  return 4.0 * kBytes / seconds;
}

double product_rate(Device& device) {
  constexpr std::int64_t n = 8192;
  const Buffer x = device.allocate(2 * n * n, "bench"), w = device.allocate(2 * n * n, "bench"),
               out = device.allocate(2 * n * n, "bench");
  const double seconds = seconds_on(
      device,
      [&](Stream& stream) {
        stream.launch(RandomFillArgs{.out = x.data(), .type = DType::bf16, .count = n * n, .seed = 1});
        stream.launch(RandomFillArgs{.out = w.data(), .type = DType::bf16, .count = n * n, .seed = 2});
        for (int i = 0; i < 40; ++i)
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
      3);
  return 40 * 2.0 * n * n * n / seconds;
}

}  // namespace longhaul::bench
