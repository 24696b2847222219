// bench_load MODEL: how fast weights get from their files to a device, beside reading the same files alone. On the CPU
// device both ends are memory, so what shows is how well reading, converting and copying overlap.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <vector>

#include "kernels/base/file.h"
#include "kernels/base/host_memory.h"
#include "kernels/cpu/cpu_device.h"
#include "runtime/checkpoint/model_source.h"
#include "runtime/model/weights.h"

using namespace longhaul;
namespace fs = std::filesystem;

namespace {

double seconds_of(const auto& action) {
  const auto begin = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::vector<fs::path> weight_files(const fs::path& model) {
  if (fs::is_regular_file(model)) return {model};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(model))
    if (entry.path().extension() == ".safetensors" || entry.path().extension() == ".gguf")
      files.push_back(entry.path());
  return files;
}

/// Takes the files out of the page cache, so that the disk is read; what is not clean stays.
void forget(const std::vector<fs::path>& files) {
  for (const fs::path& file : files) {
    const Fd fd(::open(file.c_str(), O_RDONLY));
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  }
}

void read_through(const std::vector<fs::path>& files) {
  std::vector<char> buffer(4 << 20);
  for (const fs::path& file : files) {
    const Fd fd(::open(file.c_str(), O_RDONLY));
    while (::read(fd, buffer.data(), buffer.size()) > 0) {
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: bench_load MODEL\n");
    return 2;
  }
  const ModelSource source(argv[1]);
  const ModelConfig config = source.config();
  const Checkpoint checkpoint = source.weights();
  const auto files = weight_files(argv[1]);
  double bytes = 0;
  for (const fs::path& file : files) bytes += static_cast<double>(fs::file_size(file));

  Arena device_plan, host_plan;
  Weights(config, 0, false, device_plan, host_plan);
  const auto device = make_cpu_device();
  const HostMemory on_device(device_plan.used(), "device", {.touch = true}),
      on_host(host_plan.used(), "host", {.touch = true});
  Arena device_arena(on_device.data(), device_plan.used(), "device"),
      host_arena(on_host.data(), host_plan.used(), "host");
  Weights weights(config, 0, false, device_arena, host_arena);
  const auto stream = device->make_stream("load");
  for (const bool cold : {true, false}) {
    double read = 1e9, load = 1e9;
    for (int round = 0; round < 5; ++round) {
      if (cold) forget(files);
      read = std::min(read, seconds_of([&] { read_through(files); }));
      if (cold) forget(files);
      load = std::min(load, seconds_of([&] { weights.load(*device, *stream, checkpoint); }));
    }
    fmt::print("{}: read alone {:.0f} MB/s, loaded {:.0f} MB/s, {:.0f} %\n", cold ? "from disk" : "from the page cache",
               bytes / read / 1e6, bytes / load / 1e6, 100 * read / load);
  }
  return 0;
}
