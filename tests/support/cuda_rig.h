// A device with one stream, and tensors that live on it while a case runs: the same case for the CPU and the CUDA
// device.
#pragma once
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cuda_device.h"
#include "tests/support/catch.h"
#include "tests/support/random.h"

namespace longhaul::test {

class Rig {
 public:
  explicit Rig(std::unique_ptr<Device> device)
      : device(std::move(device)), stream(this->device->make_stream("compute")), done(this->device->make_event()) {}

  /// A copy on the device, until clear().
  std::byte* put(const Tensor& t) { return put(t.bytes.data(), static_cast<std::int64_t>(t.bytes.size())); }
  template <class T>
  T* put(const std::vector<T>& v) {
    return reinterpret_cast<T*>(put(v.data(), static_cast<std::int64_t>(v.size() * sizeof(T))));
  }
  /// What has become of it.
  Tensor get(const void* from, DType type, std::int64_t size) {
    Tensor t(type, size);
    get(t.data(), from, size * size_of(type));
    return t;
  }
  std::vector<std::int32_t> ints(const void* from, std::int64_t size) {
    std::vector<std::int32_t> v(static_cast<std::size_t>(size));
    get(v.data(), from, size * 4);
    return v;
  }
  void wait() {
    stream->record(*done);
    device->host_wait(*done, {"test"});
  }
  void clear() { memory_.clear(); }

  std::unique_ptr<Device> device;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Event> done;

 private:
  std::byte* put(const void* data, std::int64_t bytes) {
    memory_.push_back(device->allocate(std::max<std::int64_t>(bytes, 1), "test"));
    stream->copy({.dst = memory_.back().data(), .src = data, .width = bytes, .kind = CopyKind::host_to_device});
    wait();
    return memory_.back().data();
  }
  void get(void* to, const void* from, std::int64_t bytes) {
    stream->copy({.dst = to, .src = from, .width = bytes, .kind = CopyKind::device_to_host});
    wait();
  }
  std::vector<Buffer> memory_;
};

/// The process's CUDA rig; null, after saying so, where there is no device: the case then returns.
inline Rig* cuda_rig() {
  if (cuda_device_count() == 0) {
    WARN("skipped: no CUDA device");
    return nullptr;
  }
  static Rig rig(make_cuda_device(0, std::int64_t{4} << 30));
  return &rig;
}

/// What body(rig) returns on the CPU and on CUDA.
template <class Body>
auto on_both(Rig& cuda, const Body& body) {
  static Rig cpu(make_cpu_device());
  auto want = body(cpu);
  auto got = body(cuda);
  cpu.clear();
  cuda.clear();
  return std::pair(std::move(want), std::move(got));
}

}  // namespace longhaul::test
