// Why there is no CUDA device: one line that says what was found, what is needed and what to do.
#include "kernels/cuda_absence.h"
#include "tests/support/catch.h"

using namespace longhaul;
using test::contains;

TEST_CASE("no CUDA device: each reason says what to do", "[no_cuda]") {
  CHECK(absence_of_cuda({.driver = 13000, .runtime = 13020, .devices = 1}).empty());
  CHECK(absence_of_cuda({.runtime = 13020, .failed = "CUDA driver version is insufficient"}) ==
        "this machine has no NVIDIA driver: install one");
  CHECK(absence_of_cuda({.driver = 12090, .runtime = 13020, .failed = "CUDA driver version is insufficient"}) ==
        "the NVIDIA driver has CUDA 12.9 and this build needs 13.0 or newer: update the driver");
  CHECK(absence_of_cuda({.driver = 13020, .runtime = 13020}) ==
        "the NVIDIA driver shows no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES");
}

TEST_CASE("no CUDA device: a driver of the build's major version, or of a later one, is not too old", "[no_cuda]") {
  for (const int driver : {13000, 13010, 13020, 13030, 14000}) {
    INFO(driver);
    CHECK(absence_of_cuda({.driver = driver, .runtime = 13020, .devices = 2}).empty());
    CHECK_THAT(absence_of_cuda({.driver = driver, .runtime = 13020, .failed = "no CUDA-capable device is detected"}),
               contains("shows no GPU (no CUDA-capable device is detected)"));
  }
}
