#include "kernels/base/host_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/catch.h"
#include "tests/support/fake_system.h"

using namespace longhaul;

namespace {

constexpr std::int64_t kMiB = 1 << 20;

std::int64_t resident_pages(const HostMemory& memory) {
  std::vector<unsigned char> pages((memory.size() + 4095) / 4096);
  REQUIRE(mincore(memory.data(), memory.size(), pages.data()) == 0);
  return std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return p & 1; });
}

}  // namespace

TEST_CASE("host memory is there from end to end, zero, and moves without a copy", "[host_memory]") {
  auto bytes = GENERATE(std::int64_t{1}, 4097, 5 * kMiB + 3);
  HostMemory memory(bytes, "test", {.numa_node = 0});
  REQUIRE(memory.size() == bytes);
  CHECK(reinterpret_cast<std::uintptr_t>(memory.data()) % 4096 == 0);
  CHECK(memory.data()[0] == std::byte{0});
  memory.data()[bytes - 1] = std::byte{7};
  std::byte* data = memory.data();
  HostMemory moved(std::move(memory));
  CHECK(moved.data() == data);
  CHECK(memory.data() == nullptr);
  CHECK(moved.data()[bytes - 1] == std::byte{7});
}

TEST_CASE("no bytes are no mapping", "[host_memory]") {
  HostMemory memory(0, "test", {.touch = true});
  CHECK(memory.data() == nullptr);
  CHECK(memory.size() == 0);
}

TEST_CASE("memory is committed when asked, else when written", "[host_memory]") {
  HostMemory lazy(8 * kMiB + 5, "test");
  CHECK(resident_pages(lazy) == 0);
  HostMemory touched(8 * kMiB + 5, "test", {.touch = true});
  CHECK(resident_pages(touched) == 2049);
  CHECK(peak_resident_bytes() >= 8 * kMiB);
}

TEST_CASE("touching more than the system has left is refused before anything is mapped", "[host_memory]") {
  std::int64_t bytes = available_host_memory() + (std::int64_t{64} << 30);
  try {
    HostMemory memory(bytes, "kv rows", {.touch = true});
    FAIL("given more than there is");
  } catch (const OutOfMemory& error) {
    CHECK(error.where == "kv rows");
    CHECK(error.asked == bytes);
    CHECK(error.left < bytes);
    CHECK(error.left > 0);
  }
}

TEST_CASE("a mapping that the kernel refuses is out of memory", "[host_memory]") {
  CHECK_THROWS_AS(HostMemory(std::int64_t{1} << 60, "test"), OutOfMemory);
}

TEST_CASE("available memory is the least of the machine's and the cgroups'", "[host_memory]") {
  const test::FakeSystem system;
  system.write("proc/meminfo", "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    8000 kB\n");
  auto available = [&] { return available_host_memory(system.root().string()); };
  SECTION("no cgroup") { CHECK(available() == 8000 * 1024); }
  SECTION("version 2, its own limit") {
    system.write("proc/self/cgroup", "0::/jobs/mine\n");
    system.write("sys/fs/cgroup/jobs/mine/memory.max", "5000\n");
    system.write("sys/fs/cgroup/jobs/mine/memory.current", "1500\n");
    CHECK(available() == 3500);
    system.write("sys/fs/cgroup/jobs/mine/memory.stat", "anon 900\ninactive_file 600\n");
    CHECK(available() == 4100);
    system.write("sys/fs/cgroup/jobs/mine/memory.max", "1000\n");  // lowered under what is in use
    CHECK(available() == 100);
  }
  SECTION("version 2, the limit of a group around it") {
    system.write("proc/self/cgroup", "0::/jobs/mine\n");
    system.write("sys/fs/cgroup/jobs/mine/memory.max", "max\n");
    system.write("sys/fs/cgroup/jobs/mine/memory.current", "1500\n");
    system.write("sys/fs/cgroup/jobs/memory.max", "7000\n");
    system.write("sys/fs/cgroup/jobs/memory.current", "2000\n");
    CHECK(available() == 5000);
  }
  SECTION("version 2, a path from outside of the container") {
    system.write("proc/self/cgroup", "0::/kubepods/pod7/abc\n");
    system.write("sys/fs/cgroup/memory.max", "7000\n");
    system.write("sys/fs/cgroup/memory.current", "1000\n");
    CHECK(available() == 6000);
  }
  SECTION("version 1 beside an empty version 2") {
    system.write("proc/self/cgroup", "9:cpu:/x\n4:memory:/docker/abc\n0::/\n");
    system.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "4096\n");
    system.write("sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "96\n");
    system.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    system.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "777\n");
    CHECK(available() == 4000);
  }
}

TEST_CASE("a thread asked onto a node stays usable, whatever nodes there are") {
  for (int node : {-1, 0, 1000}) {
    int done = 0;
    std::thread([&] {
      run_on_node(node);
      const HostMemory memory(1 << 20, "test", {.numa_node = node, .touch = true});
      done = memory.data()[12345] == std::byte{0};
    }).join();
    CAPTURE(node);
    CHECK(done == 1);
  }
}
