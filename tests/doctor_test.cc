// The test that a device must pass, what is measured, and the advice that follows from facts.
#include "runtime/plan/doctor.h"

#include <nlohmann/json.hpp>

#include "kernels/base/error.h"
#include "kernels/cpu/cpu_device.h"
#include "runtime/plan/measure_machine.h"
#include "tests/support/command.h"
#include "tests/support/sanitizer.h"

namespace longhaul {
namespace {

using nlohmann::json;
using namespace test;

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

/// A machine on which nothing is amiss.
MachineReport healthy() {
  CudaFacts gpu{.name = "GPU", .pci_id = "0000:3b:00.0", .major = 9, .minor = 0};
  gpu.free_bytes = 79 * kGiB, gpu.total_bytes = 80 * kGiB;
  gpu.numa_node = 1;
  gpu.link = {.gen = 5, .width = 16, .max_gen = 5, .max_width = 16};
  MachineReport report;
  report.system.memory_total = 512 * kGiB, report.system.memory_free = 400 * kGiB;
  report.system.huge_pages = "madvise";
  report.system.nodes = {{0, 256 * kGiB, 200 * kGiB, true}, {1, 256 * kGiB, 200 * kGiB, true}};
  report.gpus = {gpu};
  report.gpu = 0;
  report.device = "GPU";
  report.profile = MachineProfile{.device = "GPU", .link = {.h2d_GBps = 55}, .rates = {}};
  return report;
}

std::string only_advice(const MachineReport& report) {
  const auto lines = advice(report);
  CHECK(lines.size() == 1);
  return lines.empty() ? "" : lines[0];
}

TEST_CASE("doctor: bytes come back from a device that works, and not from one that does not", "[doctor]") {
  constexpr std::int64_t kBytes = 1 << 20;
  CHECK(bytes_changed(*make_cpu_device(), kBytes) == 0);
  if (!test::kThreadSanitizer) {
    CpuDeviceOptions hasty{.delays = {{.stream = "there", .microseconds = 20000}}};
    hasty.drop_wait = "test_arrived";
    CHECK(bytes_changed(*make_cpu_device(hasty), kBytes) > kBytes / 2);
  }
  CHECK_THROWS(bytes_changed(*make_cpu_device({.fail_work_at = 2}), kBytes));
  CHECK_THROWS_AS(bytes_changed(*make_cpu_device({.pin_limit = kBytes}), kBytes), OutOfMemory);
  CHECK_THROWS_AS(bytes_changed(*make_cpu_device({.budget = kBytes - 1}), kBytes), OutOfMemory);
}

TEST_CASE("doctor: no advice where nothing is amiss, one line for each thing that is", "[doctor]") {
  CHECK(advice(healthy()).empty());
  MachineReport report = healthy();
  SECTION("memlock") {
    report.system.memlock = 8 << 20;
    CHECK_THAT(only_advice(report), contains("memlock is 8.00 MiB") && contains("ulimit -l unlimited"));
    report.gpu.reset();  // nothing is pinned for the CPU device
    CHECK(advice(report).empty());
  }
  SECTION("a limit above what there is limits nothing") {
    report.system.memlock = 500 * kGiB;
    CHECK(advice(report).empty());
  }
  SECTION("the control group") {
    report.system.group = MemoryGroup{.version = 2, .limit = 16 * kGiB, .used = 3 * kGiB, .cache = 0};
    CHECK_THAT(only_advice(report), contains("allows 16.00 GiB of the machine's 512.00 GiB, 3.00 GiB are in use"));
    report.system.group->limit = 600 * kGiB;
    CHECK(advice(report).empty());
  }
  SECTION("the PCIe link") {
    report.gpus[0].link = {.gen = 3, .width = 8, .max_gen = 5, .max_width = 16};
    report.profile->link.h2d_GBps = 6.5;
    CHECK_THAT(only_advice(report), contains("the GPU runs at PCIe gen 3 x8 of gen 5 x16"));
  }
  SECTION("a link slower than its kind") {
    report.profile->link.h2d_GBps = 12;
    CHECK_THAT(only_advice(report), contains("12.0 GB/s") && contains("gen 5 x16"));
  }
  SECTION("the GPU's node") {
    report.system.nodes[1].ours = false;
    CHECK_THAT(only_advice(report), contains("numactl --cpunodebind=1 --preferred=1"));
  }
  SECTION("the GPU's memory") {
    report.gpus[0].free_bytes = 50 * kGiB;
    CHECK_THAT(only_advice(report), contains("30.00 GiB of the GPU's 80.00 GiB are in use"));
  }
  SECTION("huge pages") {
    report.system.huge_pages = "never";
    CHECK_THAT(only_advice(report), contains("echo madvise >"));
  }
  SECTION("WSL") {
    report.system.wsl = true;
    CHECK_THAT(only_advice(report), contains(".wslconfig"));
  }
  SECTION("a device that failed and tells nothing of itself") {
    report.failure = "GPU: 3 of the bytes sent there and back had changed";
    report.profile.reset();
    report.gpus.clear();
    CHECK_THAT(only_advice(report), contains("3 of the bytes"));
  }
}

TEST_CASE("doctor: reports, writes the profile, and ends well without a GPU", "[doctor]") {
  const ScratchDir dir;
  const Outcome text = run_command(dir, "doctor --quick --device cpu --profile machine.json");
  CHECK(text.exit == 0);
  CHECK_THAT(text.out, contains("host memory") && contains("GB/s to the device") && contains("TFLOP/s") &&
                           contains("written to machine.json"));
  const MachineProfile profile = read_machine_profile(dir.path() / "machine.json");
  CHECK(profile.device == cpu_device_name());
  CHECK(profile.link.gather == GatherChoice{});

  const Outcome again = run_command(dir, "doctor --quick --device cpu --profile none --json");
  CHECK(again.exit == 0);
  CHECK(again.err.empty());
  const json report = json::parse(again.out);
  CHECK(report.at("system").at("memory_total_bytes") > 0);
  CHECK(report.at("device") == profile.device);
  CHECK(report.at("failure").is_null());
  CHECK(report.at("profile").at("rates").at("copy_GBps") > 0);
  CHECK(report.at("profile_file").is_null());
  CHECK(report.at("no_cuda").is_null() == !report.at("gpus").empty());
}

TEST_CASE("doctor: mistakes", "[doctor]") {
  const ScratchDir dir;
  check_refused(dir, "doctor --device tpu", 2, "known: auto, cpu, cuda");
  check_refused(dir, "doctor --device cuda:99", 7, "--device cuda:99");
  check_refused(dir, "doctor --device cpu --json --quick --profile no/such/machine.json", 5, "cannot be written");
}

}  // namespace
}  // namespace longhaul
