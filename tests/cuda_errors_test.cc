// How CUDA errors are told, with and without a GPU. The cases tagged [.planted] spoil the process: tests/gpu.sh runs
// each in its own, under the sanitizer whose tag it has.
#include "kernels/base/error.h"
#include "kernels/cuda/check.h"
#include "tests/support/cuda_rig.h"
#include "tests/support/planted.h"

using namespace longhaul;
using namespace longhaul::test;
using cuda::Severity;
using cuda::severity_of;

namespace {

std::string told(cudaError_t error) {
  try {
    cuda::check(error);
  } catch (const DeviceError& e) {
    CHECK(std::string(e.what()).find('\n') == std::string::npos);
    return e.what();
  }
  return "nothing";
}

void commit(Mistake mistake) {
  if (cuda_device_count() > 0) plant(mistake);
}

}  // namespace

TEST_CASE("cuda: an error is retryable, refused or fatal, and says what to do", "[cuda]") {
  CHECK(severity_of(cudaErrorMemoryAllocation) == Severity::retryable);
  CHECK(severity_of(cudaErrorDevicesUnavailable) == Severity::retryable);
  CHECK(severity_of(cudaErrorInvalidValue) == Severity::refused);
  CHECK(severity_of(cudaErrorInvalidConfiguration) == Severity::refused);
  for (cudaError_t fatal : {cudaErrorIllegalAddress, cudaErrorECCUncorrectable, cudaErrorLaunchFailure,
                            cudaErrorMisalignedAddress, cudaErrorAssert, cudaErrorUnknown})
    CHECK(severity_of(fatal) == Severity::fatal);
  CHECK_NOTHROW(cuda::check(cudaSuccess));
  CHECK_THROWS_AS(cuda::check(cudaErrorMemoryAllocation), OutOfMemory);
  CHECK_THAT(told(cudaErrorIllegalAddress), contains("lost to this process"));
  CHECK_THAT(told(cudaErrorIllegalAddress), contains("cuda_errors_test.cc"));
  CHECK_THAT(told(cudaErrorECCUncorrectable), contains("nvidia-smi"));
  CHECK_THAT(told(cudaErrorInsufficientDriver), contains("update it"));
  CHECK_THAT(told(cudaErrorNoKernelImageForDevice), contains("CMAKE_CUDA_ARCHITECTURES"));
  CHECK_THAT(told(cudaErrorDevicesUnavailable), contains("try again later"));
}

TEST_CASE("cuda: without a GPU the reason is one line", "[cuda]") {
  const std::string absence = cuda_absence();
  CHECK(absence.empty() == (cuda_device_count() > 0));
  CHECK(absence.find('\n') == std::string::npos);
  if (cuda_device_count() > 0) return;
  CHECK_THAT(absence, contains("NVIDIA driver"));
  CHECK_THROWS_WITH(make_cuda_device(0, 1 << 30), absence);
}

TEST_CASE("planted: a write past the end, for memcheck", "[.planted][memcheck]") { commit(Mistake::out_of_bounds); }
TEST_CASE("planted: a race in shared memory, for racecheck", "[.planted][racecheck]") { commit(Mistake::race); }
TEST_CASE("planted: a read of what nothing wrote, for initcheck", "[.planted][initcheck]") {
  commit(Mistake::uninitialised);
}
TEST_CASE("planted: a barrier in divergent code, for synccheck", "[.planted][synccheck]") {
  commit(Mistake::divergence);
}

TEST_CASE("planted: after an illegal address nothing is computed, and nothing hangs", "[.planted][fatal]") {
  if (cuda_device_count() == 0) return;
  auto device = make_cuda_device(0, std::int64_t{1} << 30);
  auto stream = device->make_stream("compute");
  auto done = device->make_event();
  const Buffer memory = device->allocate(1 << 20, "test");
  plant(Mistake::illegal_address);
  float result = 7;
  auto call = [&] {
    stream->copy({.dst = &result, .src = memory.data(), .width = 4, .kind = CopyKind::device_to_host});
    stream->record(*done);
    device->host_wait(*done, {"test"});
  };
  for (int i = 0; i < 3; ++i) CHECK_THROWS_AS(call(), DeviceError);
  CHECK(result == 7);
  CHECK_THROWS_AS(device->make_stream("another"), DeviceError);
  CHECK_THROWS_AS(device->allocate(1 << 20, "more"), DeviceError);
  CHECK_THROWS_AS(make_cuda_device(0, std::int64_t{1} << 30), DeviceError);
}
