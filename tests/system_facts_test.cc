// What the system tells, from made-up trees: versions 1 and 2 of control groups, limits and none, absent files.
#include "runtime/plan/system_facts.h"

#include "kernels/base/pcie_link.h"
#include "tests/support/catch.h"
#include "tests/support/fake_system.h"

using namespace longhaul;
using test::FakeSystem;

TEST_CASE("a system that tells nothing is no error", "[system]") {
  const FakeSystem nothing;
  const SystemFacts facts = system_facts(nothing.root());
  CHECK(facts.processor.empty());
  CHECK(facts.memory_total == 0);
  CHECK_FALSE(facts.memlock);
  CHECK_FALSE(facts.group);
  CHECK_FALSE(facts.wsl);
  CHECK(facts.huge_pages.empty());
  CHECK(facts.nodes.empty());
  CHECK(facts.nvidia_module.empty());
  CHECK_FALSE(pcie_link("0000:01:00.0", nothing.root()).known());
  CHECK(numa_node_of_pci("0000:01:00.0", nothing.root()) == -1);
}

TEST_CASE("memlock, as the process's limits have it", "[system]") {
  const FakeSystem system;
  auto limits = [&](const std::string& soft) {
    system.write("proc/self/limits",
                 "Limit                     Soft Limit           Hard Limit           Units     \n"
                 "Max processes             95951                95951                processes \n"
                 "Max locked memory         " +
                     soft + "             unlimited              bytes     \n");
    return system_facts(system.root()).memlock;
  };
  CHECK(limits("8388608") == 8388608);
  CHECK(limits("0") == 0);
  CHECK_FALSE(limits("unlimited"));
}

TEST_CASE("the tightest control group counts", "[system]") {
  const FakeSystem system;
  SECTION("version 2, a limit around a group without one") {
    system.write("proc/self/cgroup", "0::/jobs/mine\n");
    system.write("sys/fs/cgroup/jobs/mine/memory.max", "max\n");
    system.write("sys/fs/cgroup/jobs/mine/memory.current", "5\n");
    CHECK_FALSE(system_facts(system.root()).group);
    system.write("sys/fs/cgroup/jobs/memory.max", "4000\n");
    system.write("sys/fs/cgroup/jobs/memory.current", "1000\n");
    system.write("sys/fs/cgroup/memory.max", "9000\n");
    system.write("sys/fs/cgroup/memory.current", "2000\n");
    const auto group = system_facts(system.root()).group;
    REQUIRE(group);
    CHECK(group->version == 2);
    CHECK(group->limit == 4000);
    CHECK(group->used == 1000);
    CHECK(group->cache == 0);
  }
  SECTION("version 1, and its way to say that there is none") {
    system.write("proc/self/cgroup", "9:cpu:/x\n4:memory:/docker/abc\n");
    system.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n");
    system.write("sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "96\n");
    CHECK_FALSE(system_facts(system.root()).group);
    system.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "4096\n");
    const auto group = system_facts(system.root()).group;
    REQUIRE(group);
    CHECK(group->version == 1);
    CHECK(group->limit == 4096);
  }
}

TEST_CASE("huge pages, the processor, the driver's module and WSL", "[system]") {
  const FakeSystem system;
  system.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
  system.write("proc/cpuinfo", "processor\t: 0\nmodel name\t: Some Processor 9000 \nmodel name\t: another\n");
  system.write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n");
  system.write("proc/sys/kernel/osrelease", "5.15.90.1-microsoft-standard-WSL2\n");
  system.write("sys/module/nvidia/version", "580.95.05\n");
  const SystemFacts facts = system_facts(system.root());
  CHECK(facts.huge_pages == "never");
  CHECK(facts.processor == "Some Processor 9000");
  CHECK(facts.memory_total == 9000 * 1024);
  CHECK(facts.memory_free == 8000 * 1024);
  CHECK(facts.wsl);
  CHECK(facts.nvidia_module == "580.95.05");
  system.write("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
  system.write("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
  CHECK_FALSE(system_facts(system.root()).wsl);
  CHECK(system_facts(system.root()).huge_pages == "always");
}

TEST_CASE("NUMA nodes, and which of them are this process's", "[system]") {
  const FakeSystem system;
  system.write("sys/devices/system/node/online", "0-1,4\n");
  for (const auto& [node, cpus] : {std::pair{0, "0-3,8-11"}, {1, "4-7"}, {4, ""}}) {
    const std::string folder = "sys/devices/system/node/node" + std::to_string(node) + "/";
    system.write(folder + "cpulist", std::string(cpus) + "\n");
    system.write(folder + "meminfo", "Node 0 MemTotal:   2048 kB\nNode 0 MemFree:   1024 kB\n");
  }
  system.write("proc/self/status", "Name:\tx\nCpus_allowed:\tf00\nCpus_allowed_list:\t10,12-99\n");
  system.write("sys/bus/pci/devices/0000:3b:00.0/numa_node", "1\n");
  const auto nodes = numa_nodes(system.root());
  REQUIRE(nodes.size() == 3);
  CHECK(nodes[2].id == 4);
  CHECK(nodes[0].total == 2 << 20);
  CHECK(nodes[0].free == 1 << 20);
  CHECK(nodes[0].ours);
  CHECK_FALSE(nodes[1].ours);
  CHECK_FALSE(nodes[2].ours);
  CHECK(numa_node_of_pci("0000:3b:00.0", system.root()) == 1);
}

TEST_CASE("a PCI Express link, now and at best", "[system]") {
  const FakeSystem system;
  auto link = [&](const std::string& speed, const std::string& width) {
    system.write("sys/bus/pci/devices/0000:3b:00.0/current_link_speed", speed + "\n");
    system.write("sys/bus/pci/devices/0000:3b:00.0/current_link_width", width + "\n");
    system.write("sys/bus/pci/devices/0000:3b:00.0/max_link_speed", "32.0 GT/s PCIe\n");
    system.write("sys/bus/pci/devices/0000:3b:00.0/max_link_width", "16\n");
    return pcie_link("0000:3b:00.0", system.root());
  };
  const PcieLink full = link("32.0 GT/s PCIe", "16");
  CHECK(full.gen == 5);
  CHECK(full.width == 16);
  CHECK_FALSE(full.reduced());
  CHECK(full.peak_GBps() == Approx(63.0).epsilon(0.01));
  CHECK(link("8.0 GT/s PCIe", "16").reduced());
  CHECK(link("32.0 GT/s PCIe", "8").reduced());
  CHECK(link("2.5 GT/s PCIe", "16").peak_GBps() == Approx(4.0));
  CHECK_FALSE(link("Unknown", "16").known());
  CHECK_FALSE(link("32.0 GT/s PCIe", "63").known());
  CHECK_FALSE(link("Unknown", "63").reduced());
}
