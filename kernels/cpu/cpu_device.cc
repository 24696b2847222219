#include "kernels/cpu/cpu_device.h"

#include <cstring>
#include <iterator>
#include <map>
#include <thread>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/host_memory.h"
#include "kernels/base/system_file.h"
#include "kernels/cpu/cpu_machine.h"
#include "kernels/cpu/cpu_stream.h"

namespace longhaul {
namespace {

constexpr std::uintptr_t kPage = 4096;

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(CpuDeviceOptions options) : Device(options.budget), machine_(std::move(options)) {}

  std::string describe() const override { return cpu_device_name(); }
  std::unique_ptr<Stream> make_stream(std::string_view name) override {
    return std::make_unique<CpuStream>(machine_, name);
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<CpuEvent>(); }

  void host_wait(const Event& event, Edge edge) override {
    double seconds = 0;
    if (!machine_.drops(edge)) {
      auto& state = static_cast<const CpuEvent&>(event).state;
      seconds = state->wait(state->latest());
    }
    machine_.count([&](DeviceCounters& c) {
      ++c.host_waits;
      c.stall_seconds[std::string(edge.name)] += seconds;
    });
    machine_.rethrow_failure();
  }

  void pin(std::byte* data, std::int64_t bytes, const PinReport& report) override {
    check(bytes >= 0 && reinterpret_cast<std::uintptr_t>(data) % kPage == 0, "pinned memory starts on a page");
    if (bytes == 0) return;
    auto next = pins_.lower_bound(data);
    check(next == pins_.end() || data + bytes <= next->first, "memory is pinned once");
    check(next == pins_.begin() || std::prev(next)->first + std::prev(next)->second <= data, "memory is pinned once");
    std::int64_t left = machine_.options().pin_limit - pinned_;
    if (bytes > left) throw OutOfMemory("pinned host memory", bytes, left);
    pins_.emplace(data, bytes);
    pinned_ += bytes;
    if (report) report(bytes, bytes);
  }

  void unpin(std::byte* data) noexcept override {
    auto pin = pins_.find(data);
    if (pin == pins_.end()) return;
    machine_.drain();
    pinned_ -= pin->second;
    pins_.erase(pin);
  }

  DeviceCounters counters() const override { return machine_.counters(); }

 protected:
  std::byte* raw_allocate(std::int64_t bytes) override try {
    if (++allocations_ == machine_.options().fail_alloc_at) return nullptr;
    HostMemory memory(bytes, "device memory", {.touch = true});
    std::byte* data = memory.data();
    if (machine_.options().poison) std::memset(data, 0xFF, bytes);
    memory_.emplace(data, std::move(memory));
    return data;
  } catch (const OutOfMemory&) {
    return nullptr;
  }

  /// After an exception on the host, buffers go while streams still work in them: wait, as cudaFree does.
  void raw_free(std::byte* data, std::int64_t) noexcept override {
    machine_.drain();
    memory_.erase(data);
  }

 private:
  CpuMachine machine_;
  std::map<std::byte*, HostMemory> memory_;
  std::map<std::byte*, std::int64_t> pins_;  // bytes by start
  std::int64_t pinned_ = 0, allocations_ = 0;
};

}  // namespace

std::string cpu_device_name() {
  const std::string processor = value_in("/proc/cpuinfo", "model name");
  return fmt::format("CPU ({}{}{} threads)", processor, processor.empty() ? "" : ", ",
                     std::thread::hardware_concurrency());
}

std::unique_ptr<Device> make_cpu_device(CpuDeviceOptions options) {
  return std::make_unique<CpuDevice>(std::move(options));
}

}  // namespace longhaul
