// What longhaul doctor asks of a GPU: its facts, the test of its memory and its link, the measurements.
#include "kernels/base/error.h"
#include "runtime/engine/pinned_memory.h"
#include "runtime/plan/measure_machine.h"
#include "tests/support/cuda_rig.h"

using namespace longhaul;
using namespace longhaul::test;

TEST_CASE("cuda: a GPU's facts are told, and its description begins with its name", "[cuda]") {
  if (cuda_rig() == nullptr) return;
  const CudaFacts facts = cuda_facts(0);
  CHECK_FALSE(facts.name.empty());
  CHECK(facts.pci_id.size() == 12);
  CHECK(facts.major >= 7);
  CHECK(facts.processors > 0);
  CHECK(facts.free_bytes > 0);
  CHECK(facts.free_bytes <= facts.total_bytes);
  CHECK(facts.driver_cuda >= facts.runtime_cuda / 1000 * 1000);
  CHECK(facts.link.gen <= facts.link.max_gen);
  CHECK(facts.link.width <= facts.link.max_width);
  const auto device = make_cuda_device(0, std::int64_t{1} << 30);
  CHECK(device->describe().starts_with(cuda_name(0) + "; attention by"));
  CHECK(cuda_name(0).starts_with(facts.name));
  CHECK(device->used_bytes() == kCudaWorkspaceBytes);
  CHECK_THROWS_AS(cuda_facts(cuda_device_count()), DeviceError);
}

TEST_CASE("cuda: streams measure their copies and their waits, when asked", "[cuda][clock]") {
  if (cuda_rig() == nullptr) return;
  constexpr std::int64_t kBytes = std::int64_t{256} << 20;
  const auto device = make_cuda_device(0, std::int64_t{1} << 30);
  const PinnedMemory host(*device, kBytes, {});
  const Buffer there = device->allocate(kBytes, "test");
  const auto fetch = device->make_stream("fetch"), compute = device->make_stream("compute");
  const auto landed = device->make_event(), done = device->make_event();
  auto run = [&] {
    fetch->copy({.dst = there.data(), .src = host.data(), .width = kBytes, .kind = CopyKind::host_to_device});
    fetch->record(*landed);
    compute->wait(*landed, {"tile_ready"});
    compute->record(*done);
    device->host_wait(*done, {"token_ready"});
    return device->counters();
  };
  DeviceCounters counters = run();
  CHECK(counters.busy_seconds.empty());
  CHECK(counters.stall_seconds.size() == 1);  // the host's own
  device->measure_streams(true);
  counters = run();
  const double copied = counters.busy_seconds.at("fetch"), stood = counters.stall_seconds.at("tile_ready");
  CHECK(copied > kBytes / 500e9);
  CHECK(copied < 1);
  CHECK(stood > copied / 2);
  CHECK(stood < copied * 2);
  device->measure_streams(false);
  CHECK(run().busy_seconds.at("fetch") == copied);
}

TEST_CASE("cuda: bytes come back as they were, and everything can be measured", "[cuda][large]") {
  if (cuda_rig() == nullptr) return;
  const auto device = make_cuda_device(0, std::int64_t{4} << 30);
  CHECK(bytes_changed(*device) == 0);
  const MachineProfile profile = measure_machine(*device, cuda_name(0), {.cuda = 0, .quick = true});
  CHECK(profile.link.h2d_GBps > 1);
  CHECK(profile.link.d2h_GBps > 1);
  CHECK(profile.link.zero_copy_scattered > 1e5);
  CHECK(profile.rates.copy_GBps > profile.link.h2d_GBps);
  CHECK(profile.rates.product_TFLOPs > 1);
  CHECK(profile.rates.attention_TFLOPs > 1);
  CHECK(profile.rates.pin_GiBps > 0.1);
  CHECK(device->used_bytes() == kCudaWorkspaceBytes);
}
