// Large host memory: mmap'd, on huge pages where the system gives them, bound to a NUMA node, first touched in
// parallel. Owned by whoever holds the object. Pinning is the device's business (kernels/device.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace longhaul {

struct HostMemoryOptions {
  int numa_node = -1;      // -1: the node of the calling thread
  bool huge_pages = true;  // a request (madvise), not a condition
  bool touch = false;      // commit the pages now, in parallel; else the first write does
};

class HostMemory {
 public:
  /// Throws OutOfMemory{what, bytes, what the system has left} when the mapping is refused, and with `touch` when it is
  /// more than the system has left. bytes may be 0: then data() is null.
  HostMemory(std::int64_t bytes, std::string_view what, HostMemoryOptions options = {});
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&&) = delete;
  ~HostMemory();

  std::byte* data() const { return data_; }
  std::int64_t size() const { return size_; }

 private:
  std::byte* data_;
  std::int64_t size_;
};

/// Those of the calling thread's processors that are on the node; all of them for -1, and where none is.
int processors_on_node(int numa_node);
/// The calling thread runs on those from now on.
void run_on_node(int numa_node);

/// Bytes the system could still give this process: MemAvailable, under the cgroup's limit where there is one (its
/// reclaimable file cache counts as free). `root` is where proc/ and sys/ lie; tests bring their own.
std::int64_t available_host_memory(std::string_view root = "/");
/// The process's resident set, bytes, now (VmRSS) and at its peak (VmHWM); 0 where the system does not tell.
std::int64_t resident_bytes();
std::int64_t peak_resident_bytes();
/// Gives memory that was freed back to the system.
void trim_heap();

}  // namespace longhaul
