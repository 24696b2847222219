// How CUDA errors are told, with and without a GPU. The cases tagged [.planted] spoil the process: tests/gpu.sh runs
// each in its own, under the sanitizer whose tag it has.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <iostream>
#include <sstream>

#include "apps/command.h"
#include "kernels/base/error.h"
#include "kernels/cuda/allocate.h"
#include "kernels/cuda/check.h"
#include "paths.h"
#include "tests/support/cuda_rig.h"
#include "tests/support/planted.h"
#include "tests/support/scratch_dir.h"

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

bool has_device() {
  if (cuda_device_count() == 0) WARN("skipped: no CUDA device");
  return cuda_device_count() > 0;
}

void commit(Mistake mistake) {
  if (has_device()) plant(mistake);
}

/// Stands behind std::cout. At the first word that is written, the device is lost.
class LosingOutput : public std::stringbuf {
 public:
  int writes = 0;

 protected:
  std::streamsize xsputn(const char* text, std::streamsize size) override {
    if (size > 0 && ++writes == 1) plant(Mistake::illegal_address);
    return std::stringbuf::xsputn(text, size);
  }
};

struct End {
  Exit exit;
  std::string err;
};

/// `longhaul run` in this process, which shares the device, and so what befalls it, with the case.
End run_here(std::streambuf& out) {
  const std::string model = LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m", here = "apps/demo/demo-7m";
  const std::array arguments{"longhaul", "run", "--device", "cuda", "--gpu-memory", "4GiB", "--log-level", "warn",
                             "--max-tokens", "16", "--prompt", "Once upon a time", "--model",
                             // On a machine that the programs were carried to, below the current folder.
                             std::filesystem::exists(model) ? model.c_str() : here.c_str()};
  const ScratchDir dir;
  const int file = ::open((dir.path() / "err").c_str(), O_CREAT | O_WRONLY, 0600), own_err = ::dup(STDERR_FILENO);
  ::dup2(file, STDERR_FILENO);
  std::streambuf* own_out = std::cout.rdbuf(&out);
  const Exit exit = command(static_cast<int>(arguments.size()), arguments.data());
  std::cout.rdbuf(own_out);
  ::dup2(own_err, STDERR_FILENO);
  ::close(own_err);
  ::close(file);
  return {exit, text_of(dir.path() / "err")};
}

void check_lost(const End& end) {
  INFO(end.err);
  CHECK(end.exit == Exit::device);
  CHECK(end.err.starts_with("longhaul: "));
  CHECK(std::count(end.err.begin(), end.err.end(), '\n') == 1);
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
  CHECK_THAT(told(cudaErrorIllegalAddress), contains("lost to this process"));
  CHECK(told(cudaErrorIllegalAddress).starts_with("CUDA: "));
  CHECK_THAT(told(cudaErrorIllegalAddress), contains("longhaul doctor"));
  CHECK_THAT(told(cudaErrorIllegalAddress), contains(" [cudaErrorIllegalAddress at "));
  CHECK_THAT(told(cudaErrorIllegalAddress), contains("cuda_errors_test.cc"));
  CHECK_THAT(told(cudaErrorECCUncorrectable), contains("nvidia-smi"));
  CHECK_THAT(told(cudaErrorInsufficientDriver), contains("update it"));
  CHECK_THAT(told(cudaErrorNoKernelImageForDevice), contains("CMAKE_CUDA_ARCHITECTURES"));
  CHECK_THAT(told(cudaErrorDevicesUnavailable), contains("try again later"));
}

TEST_CASE("cuda: refused memory is told with what is known, and what to do", "[cuda]") {
  const auto text = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const OutOfMemory& e) {
      return e.what();
    }
    return "nothing";
  };
  const std::string unknown = text([] { cuda::check(cudaErrorMemoryAllocation); });
  CHECK_THAT(unknown, contains("a smaller --gpu-memory"));
  CHECK_THAT(unknown, !contains("asked for"));
  CHECK_THAT(text([] { cuda::check(CUBLAS_STATUS_ALLOC_FAILED); }), contains("a smaller --gpu-memory"));
  CHECK_THAT(text([] { cuda::throw_gpu_full(4096, std::source_location::current()); }), contains("asked for 4.00 KiB"));
  CHECK((unknown.find(" left") != std::string::npos) == (cuda_device_count() > 0));
  if (cuda_device_count() > 0)
    CHECK_THAT(text([] { cuda::allocate_device(std::int64_t{1} << 49); }), contains("asked for 512.00 TiB"));
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

TEST_CASE("planted: after an illegal address nothing is computed or hangs, and the command ends with one line",
          "[.planted][fatal]") {
  if (!has_device()) return;
  auto device = make_cuda_device(0, std::int64_t{1} << 30);
  auto stream = device->make_stream("compute");
  auto done = device->make_event();
  const Buffer memory = device->allocate(1 << 20, "test");

  LosingOutput cut_short;
  check_lost(run_here(cut_short));
  REQUIRE(cut_short.writes == 1);  // the word before the loss
  std::stringbuf nothing;          // of a run that begins on the lost device
  check_lost(run_here(nothing));
  CHECK(nothing.str().empty());

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
