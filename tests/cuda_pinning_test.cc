// Copies over the borders of registrations, and a driver that refuses.
#include <sys/mman.h>

#include <cstring>

#include "kernels/base/error.h"
#include "kernels/base/host_memory.h"
#include "tests/support/cuda_rig.h"

using namespace longhaul;
using namespace longhaul::test;

TEST_CASE("cuda: a copy may cross from one registration to the next", "[cuda][large]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  constexpr std::int64_t kPart = std::int64_t{64} << 20, kWidth = 3 << 20, kPitch = 5 << 20, kHeight = 36;
  HostMemory host(3 * kPart, "test", {.touch = true});
  Device& device = *cuda->device;
  for (int i = 0; i < 3; ++i) device.pin(host.data() + i * kPart, kPart);
  auto* words = reinterpret_cast<std::uint32_t*>(host.data());
  for (std::int64_t i = 0; i < 3 * kPart / 4; ++i) words[i] = static_cast<std::uint32_t>(i * 2654435761);
  const std::vector<std::byte> kept(host.data(), host.data() + 3 * kPart);
  const Buffer there = device.allocate(kWidth * kHeight, "test");
  cuda->stream->copy({there.data(), host.data(), kWidth, kHeight, kWidth, kPitch, CopyKind::host_to_device});
  cuda->wait();
  for (std::int64_t i = 0; i < kHeight; ++i) std::memset(host.data() + i * kPitch, 0, kWidth);
  cuda->stream->copy({host.data(), there.data(), kWidth, kHeight, kPitch, kWidth, CopyKind::device_to_host});
  cuda->wait();
  CHECK(std::memcmp(host.data(), kept.data(), kept.size()) == 0);
  // In one piece, all three at once.
  const Buffer all = device.allocate(3 * kPart, "test");
  cuda->stream->copy({.dst = all.data(), .src = host.data(), .width = 3 * kPart, .kind = CopyKind::host_to_device});
  cuda->wait();
  std::memset(host.data(), 0, 3 * kPart);
  cuda->stream->copy({.dst = host.data(), .src = all.data(), .width = 3 * kPart, .kind = CopyKind::device_to_host});
  cuda->wait();
  CHECK(std::memcmp(host.data(), kept.data(), kept.size()) == 0);
  for (int i = 0; i < 3; ++i) device.unpin(host.data() + i * kPart);
}

TEST_CASE("cuda: memory that the driver refuses to pin is one line, and nothing stays pinned", "[cuda][large]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  constexpr std::int64_t kBytes = std::int64_t{512} << 20, kBad = std::int64_t{64} << 20;
  HostMemory host(kBytes, "test");
  mprotect(host.data() + kBytes - kBad, kBad, PROT_NONE);
  try {
    cuda->device->pin(host.data(), kBytes);
    FAIL("pinned memory that nothing may touch");
  } catch (const OutOfMemory& e) {
    CHECK(e.asked == kBytes);
    CHECK(e.left == kBytes - kBad);  // in chunks of 64 MiB
    CHECK_THAT(std::string(e.what()), contains("--host-memory"));
  }
  mprotect(host.data() + kBytes - kBad, kBad, PROT_READ | PROT_WRITE);
  std::int64_t reported = 0;
  cuda->device->pin(host.data(), kBytes, [&](std::int64_t done, std::int64_t) { reported = done; });
  CHECK(reported == kBytes);
  cuda->device->unpin(host.data());
}
