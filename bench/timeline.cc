// What the device did and when, on which stream: for a picture of the overlap. Loaded into a program from outside:
//   CUDA_INJECTION64_PATH=libbench_timeline.so TIMELINE=FILE bench_cuda_figures --sections step ...
// writes the last 20,000 kernels and copies as lines of: start and end in ns, stream, blocks, threads, bytes of shared
// memory, registers, name. CUPTI's activity records; launches from graphs are told by node. bench/timeline.py reads it.
#include <cupti.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <string>

namespace {

struct Did {
  std::uint64_t start, end;
  std::uint32_t stream, blocks, threads, shared, registers;
  std::string name;
};

constexpr std::size_t kKept = 20000, kBuffer = 8 << 20;
std::mutex mutex;
std::deque<Did>& done() {
  static auto& list = *new std::deque<Did>;  // there until the process is not: written when it ends
  return list;
}

void keep(Did did) {
  const std::scoped_lock lock(mutex);
  done().push_back(std::move(did));
  if (done().size() > kKept) done().pop_front();
}

void CUPTIAPI give(std::uint8_t** buffer, std::size_t* size, std::size_t* records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(64, kBuffer));
  *size = kBuffer, *records = 0;
}

void CUPTIAPI take(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t size) {
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, size, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto& k = *reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      const auto blocks = static_cast<std::uint32_t>(k.gridX * k.gridY * k.gridZ);
      const auto threads = static_cast<std::uint32_t>(k.blockX * k.blockY * k.blockZ);
      keep({k.start, k.end, k.streamId, blocks, threads,
            static_cast<std::uint32_t>(k.staticSharedMemory + k.dynamicSharedMemory), k.registersPerThread, k.name});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto& c = *reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      keep({c.start, c.end, c.streamId, 0, 0, 0, 0, "copy of " + std::to_string(c.bytes) + " bytes"});
    }
  }
  std::free(buffer);
}

void write() {
  cuptiActivityFlushAll(1);
  const char* path = std::getenv("TIMELINE");
  std::FILE* file = path == nullptr ? nullptr : std::fopen(path, "w");
  if (file == nullptr) return std::perror("TIMELINE");
  const std::scoped_lock lock(mutex);
  std::ranges::sort(done(), {}, &Did::start);
  for (const Did& d : done())
    std::fprintf(file, "%lu\t%lu\t%u\t%u\t%u\t%u\t%u\t%s\n", d.start, d.end, d.stream, d.blocks, d.threads, d.shared,
                 d.registers, d.name.c_str());
  std::fclose(file);
}

}  // namespace

extern "C" int InitializeInjection() {
  cuptiActivityRegisterCallbacks(give, take);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
  std::atexit(write);
  return 1;
}
