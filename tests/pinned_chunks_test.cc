// Pinning in chunks with a driver that refuses, and copies cut at their borders: without a GPU.
#include "kernels/pinned_chunks.h"

#include <cstring>
#include <mutex>
#include <random>

#include "kernels/base/error.h"
#include "tests/support/catch.h"

using namespace longhaul;

namespace {

constexpr std::int64_t kMiB = 1 << 20;

/// Registers whatever is no larger than `most` and, from the `refuse_at`-th byte of memory on, nothing.
struct FakeDriver {
  std::int64_t most = std::int64_t{1} << 60;
  std::byte* refuse_from = nullptr;
  bool throws = false;
  std::mutex mutex;
  std::map<std::byte*, std::int64_t> registered;
  std::int64_t calls = 0;

  PinnedChunks::Driver driver() {
    return {[this](std::byte* data, std::int64_t bytes) {
              const std::lock_guard lock(mutex);
              ++calls;
              if (refuse_from != nullptr && data + bytes > refuse_from) {
                if (throws) throw DeviceError("lost");
                return false;
              }
              if (bytes > most) return false;
              registered.emplace(data, bytes);
              return true;
            },
            [this](std::byte* data) { registered.erase(data); }};
  }
  std::int64_t bytes() const {
    std::int64_t sum = 0;
    for (const auto& [data, size] : registered) sum += size;
    return sum;
  }
};

std::byte* const kBase = reinterpret_cast<std::byte*>(std::uintptr_t{1} << 40);  // never read

}  // namespace

TEST_CASE("a range is pinned in chunks, with progress, and unpinned") {
  FakeDriver fake;
  PinnedChunks chunks(fake.driver(), 256 * kMiB);
  std::vector<std::int64_t> reports;
  const std::int64_t bytes = 1000 * kMiB + 4096;
  chunks.pin(kBase, bytes, [&](std::int64_t done, std::int64_t total) {
    CHECK(total == bytes);
    reports.push_back(done);
  });
  CHECK(fake.registered.size() == 4);
  CHECK(fake.bytes() == bytes);
  CHECK(std::ranges::is_sorted(reports));
  CHECK(reports.back() == bytes);
  CHECK_THROWS_AS(chunks.pin(kBase, bytes, {}), std::logic_error);
  chunks.unpin(kBase + 4096);  // not the start of anything
  CHECK(fake.bytes() == bytes);
  chunks.unpin(kBase);
  CHECK(fake.registered.empty());
  chunks.pin(kBase, bytes, {});
  CHECK(fake.bytes() == bytes);
}

TEST_CASE("a refused chunk is tried again in halves") {
  FakeDriver fake{.most = 100 * kMiB};
  PinnedChunks chunks(fake.driver(), 1024 * kMiB);
  chunks.pin(kBase, 1500 * kMiB, {});
  CHECK(fake.bytes() == 1500 * kMiB);
  for (const auto& [data, size] : fake.registered) CHECK(size <= 100 * kMiB);
}

TEST_CASE("when no chunk is small enough nothing stays pinned") {
  for (bool throws : {false, true}) {
    FakeDriver fake{.refuse_from = kBase + 700 * kMiB, .throws = throws};
    PinnedChunks chunks(fake.driver(), 512 * kMiB);
    try {
      chunks.pin(kBase, 1024 * kMiB, {});
      FAIL("pinned");
    } catch (const OutOfMemory& e) {
      CHECK(!throws);
      CHECK(e.asked == 1024 * kMiB);
      CHECK(e.left == 640 * kMiB);  // in chunks of 64 MiB
      CHECK(std::string(e.what()).find("pinned host memory") != std::string::npos);
    } catch (const DeviceError&) {
      CHECK(throws);
    }
    CHECK(fake.registered.empty());
    fake.refuse_from = nullptr;
    chunks.pin(kBase, 1024 * kMiB, {});  // and it can be tried again
    CHECK(fake.bytes() == 1024 * kMiB);
  }
}

TEST_CASE("copies are cut where one registration ends and the next begins") {
  FakeDriver fake;
  PinnedChunks chunks(fake.driver(), 64 * kMiB);
  chunks.pin(kBase, 300 * kMiB, {});
  std::mt19937_64 random(5);
  auto* device = reinterpret_cast<std::byte*>(std::uintptr_t{1} << 44);
  auto chunk_of = [&](const std::byte* p) {
    auto next = fake.registered.upper_bound(const_cast<std::byte*>(p));
    if (next == fake.registered.begin()) return std::int64_t{-1};
    --next;
    return p < next->first + next->second ? next->first - kBase : std::int64_t{-1};
  };
  for (int round = 0; round < 2000; ++round) {
    const bool down = round % 2 == 1;
    const auto width = static_cast<std::int64_t>(1 + random() % (round % 3 == 0 ? 200 * kMiB : 8 * kMiB));
    const auto height = static_cast<std::int64_t>(1 + random() % 9);
    const std::int64_t pitch = width + static_cast<std::int64_t>(random() % (100 * kMiB));
    std::byte* host = kBase - 10 * kMiB + random() % (330 * kMiB);  // may begin before and end after
    CopyArgs copy{.width = width, .height = height};
    copy.dst = down ? host : device, copy.src = down ? device : host;
    copy.dst_pitch = down ? pitch : width, copy.src_pitch = down ? width : pitch;
    copy.kind = down ? CopyKind::device_to_host : CopyKind::host_to_device;
    std::int64_t expected = 0;  // the next byte, counted over the pieces: they come in order
    chunks.cut(copy, [&](const CopyArgs& part) {
      for (std::int64_t i = 0; i < part.height; ++i) {
        const std::int64_t row = expected / width, from = expected % width;
        const std::byte* at = static_cast<const std::byte*>(down ? part.dst : part.src) + i * pitch;
        const std::byte* there = static_cast<const std::byte*>(down ? part.src : part.dst) + i * width;
        CHECK(at == host + row * pitch + from);
        CHECK(there == device + row * width + from);
        expected += part.width;
      }
      const auto* first = static_cast<const std::byte*>(down ? part.dst : part.src);
      const std::byte* last = first + (part.height - 1) * pitch + part.width - 1;
      CHECK(chunk_of(first) == chunk_of(last));
    });
    CHECK(expected == width * height);
  }
  int calls = 0;
  chunks.cut({.dst = kBase, .src = kBase, .width = 300 * kMiB}, [&](const CopyArgs&) { ++calls; });
  CHECK(calls == 1);  // device to device, whatever the addresses are
}
