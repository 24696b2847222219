// The asynchronous CPU device: a thread per stream, real events, a byte budget, a link of settable speed, and the
// faults that prove the ordering (delays, dropped waits). It is the reference for every operator and what runs without
// a GPU.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace longhaul {

/// Sleep for `microseconds` before every `every`-th copy or operator of the streams named `stream` ("" = all streams).
/// With `random` the sleep is drawn from [0, microseconds] by the device's seed.
struct CpuDelay {
  std::string stream = {};
  std::int64_t microseconds = 0;
  std::int64_t every = 1;
  bool random = false;
};

struct CpuDeviceOptions {
  std::int64_t budget = std::int64_t{1} << 62;  // bytes of "device" memory
  double link_bytes_per_second = 0;             // each way; 0: as fast as memory
  std::vector<CpuDelay> delays = {};
  std::string drop_wait = {};      // name of an edge whose waits are not made, by streams and by the host
  bool poison = false;             // fresh device memory reads as NaN
  std::int64_t fail_alloc_at = 0;  // the n-th allocation (from 1) is refused; 0: none
  std::int64_t fail_work_at = 0;   // the n-th copy or operator (from 1, as they run) fails; 0: none
  std::int64_t pin_limit = std::int64_t{1} << 62;  // bytes that can be pinned at once
  std::uint64_t seed = 0;
};

/// "CPU (AMD EPYC 9555, 64 threads)": how the device describes itself.
std::string cpu_device_name();

/// Outlives its streams. Its memory is given back only when the work enqueued so far has run, as CUDA's is.
std::unique_ptr<Device> make_cpu_device(CpuDeviceOptions options = {});

}  // namespace longhaul
