#include "kernels/base/host_memory.h"

#include <malloc.h>
#include <numa.h>
#include <numaif.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <string>
#include <utility>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/parallel.h"

extern "C" void mi_collect(bool force) __attribute__((weak));  // of mimalloc, where the program is linked with it

namespace longhaul {
namespace {

constexpr std::int64_t kPage = 4096;
constexpr std::int64_t kHugePage = std::int64_t{2} << 20;

/// Preferred, not bound: memory of another node is better than none. Refusals (containers) are harmless.
void prefer_node(std::byte* data, std::int64_t bytes, int node) {
  if (numa_available() < 0 || numa_max_node() == 0) return;
  if (node < 0) node = numa_node_of_cpu(sched_getcpu());
  if (node < 0 || node > numa_max_node()) return;
  bitmask* nodes = numa_allocate_nodemask();
  numa_bitmask_setbit(nodes, node);
  mbind(data, bytes, MPOL_PREFERRED, nodes->maskp, nodes->size + 1, 0);
  numa_bitmask_free(nodes);
}

cpu_set_t own_processors(int node) {
  cpu_set_t own, near;
  CPU_ZERO(&own);
  CPU_ZERO(&near);
  sched_getaffinity(0, sizeof own, &own);
  for (int i = 0; node >= 0 && numa_available() >= 0 && i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &own) && numa_node_of_cpu(i) == node) CPU_SET(i, &near);
  return CPU_COUNT(&near) > 0 ? near : own;
}

void touch_pages(std::byte* data, std::int64_t bytes) {
  parallel_for(ceil_div(bytes, kHugePage), 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin * kHugePage; at < std::min(end * kHugePage, bytes); at += kPage)
      *static_cast<volatile std::byte*>(data + at) = std::byte{0};
  });
}

}  // namespace

HostMemory::HostMemory(std::int64_t bytes, std::string_view what, HostMemoryOptions options)
    : data_(nullptr), size_(bytes) {
  check(bytes >= 0, "a size is not negative");
  if (bytes == 0) return;
  // Linux promises more than it has and kills later; memory that is about to be committed is refused here instead.
  if (options.touch && bytes > available_host_memory())
    throw OutOfMemory(std::string(what), bytes, available_host_memory());
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw OutOfMemory(std::string(what), bytes, available_host_memory());
  data_ = static_cast<std::byte*>(data);
  if (options.huge_pages && bytes >= 2 * kHugePage) madvise(data, bytes, MADV_HUGEPAGE);
  prefer_node(data_, bytes, options.numa_node);
  if (options.touch) touch_pages(data_, bytes);
}

HostMemory::HostMemory(HostMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

int processors_on_node(int numa_node) {
  const cpu_set_t processors = own_processors(numa_node);
  return std::max(1, CPU_COUNT(&processors));
}

void run_on_node(int numa_node) {
  const cpu_set_t processors = own_processors(numa_node);
  sched_setaffinity(0, sizeof processors, &processors);  // a refusal is harmless
}

void trim_heap() {
  if (mi_collect != nullptr) mi_collect(true);
  else malloc_trim(0);
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace longhaul
