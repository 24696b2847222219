// What longhaul doctor asks of a GPU: its facts, the test of its memory and its link, the measurements.
#include "kernels/base/error.h"
#include "runtime/measure_machine.h"
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
