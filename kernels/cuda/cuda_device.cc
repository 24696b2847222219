#include "kernels/cuda_device.h"

#include <chrono>
#include <set>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/host_memory.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/cuda/ops.h"

namespace longhaul {
namespace cuda {
namespace {

/// Makes the device current, so that what follows in the constructor's list is made on it.
int use(int ordinal) {
  check(cudaSetDevice(ordinal));
  return ordinal;
}

class CudaDevice final : public Device {
 public:
  CudaDevice(int ordinal, std::int64_t budget)
      : Device(budget),
        ordinal_(use(ordinal)),
        workspace_(allocate(Machine::kWorkspaceBytes, "workspace of the libraries")),
        machine_(ordinal, workspace_.data()) {}
  ~CudaDevice() override {
    cudaSetDevice(ordinal_);
    cudaDeviceSynchronize();
  }

  std::string describe() const override {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, ordinal_));
    return fmt::format("{} ({}, compute capability {}.{}; attention by {})", properties.name,
                       format_bytes(static_cast<std::int64_t>(properties.totalGlobalMem)), properties.major,
                       properties.minor, machine_.attention.describe());
  }
  std::unique_ptr<Stream> make_stream(std::string_view) override {
    machine_.enter();
    return std::make_unique<CudaStream>(machine_);
  }
  std::unique_ptr<Event> make_event() override {
    machine_.enter();
    return std::make_unique<CudaEvent>();
  }

  void host_wait(const Event& event, Edge edge) override {
    machine_.enter();
    const auto start = std::chrono::steady_clock::now();
    check(cudaEventSynchronize(static_cast<const CudaEvent&>(event).get()));
    const std::chrono::duration<double> stood = std::chrono::steady_clock::now() - start;
    ++machine_.counters.host_waits;
    machine_.counters.stall_seconds[std::string(edge.name)] += stood.count();
    machine_.enter();  // a kernel before the event may have found a fault
  }

  void pin(std::byte* data, std::int64_t bytes) override;
  void unpin(std::byte* data) noexcept override;
  DeviceCounters counters() const override { return machine_.counters; }

 protected:
  std::byte* raw_allocate(std::int64_t bytes) override {
    use(ordinal_);
    void* data = nullptr;
    const cudaError_t error = cudaMalloc(&data, static_cast<std::size_t>(bytes));
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // told by the null
      return nullptr;
    }
    check(error);
    return static_cast<std::byte*>(data);
  }
  void raw_free(std::byte* data, std::int64_t) noexcept override {
    cudaSetDevice(ordinal_);
    cudaFree(data);  // waits for the device
  }

 private:
  int ordinal_;
  Buffer workspace_;
  Machine machine_;
  std::set<std::byte*> pins_;  // starts
};

/// In one piece: a copy that crosses from one registration to the next is refused (cudaErrorInvalidValue, H100).
void CudaDevice::pin(std::byte* data, std::int64_t bytes) {
  longhaul::check(bytes >= 0 && !pins_.contains(data), "memory is pinned once");
  if (bytes == 0) return;
  machine_.enter();
  const cudaError_t error = cudaHostRegister(data, static_cast<std::size_t>(bytes), cudaHostRegisterPortable);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw OutOfMemory("pinned host memory", bytes, available_host_memory());
  }
  check(error);
  pins_.insert(data);
}

void CudaDevice::unpin(std::byte* data) noexcept {
  if (pins_.erase(data) == 0) return;
  cudaSetDevice(ordinal_);
  cudaDeviceSynchronize();  // after an exception on the host, copies may still be under way
  cudaHostUnregister(data);
}

}  // namespace

void Machine::enter() const {
  check(cudaSetDevice(ordinal_));
  if (fault_.read() == kTokenOutsideVocabulary) throw DeviceError("embed: a token id outside the vocabulary");
}

void attend(const AttendArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  if (a.act == DType::bf16 && a.head_dim <= 128) return attend_bf16(a, stream);
  attend_many(a, stream);
}

}  // namespace cuda

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // no driver, or one too old
  return 0;
}

std::int64_t cuda_free_memory(int ordinal) {
  std::size_t free = 0, total = 0;
  cuda::use(ordinal);
  cuda::check(cudaMemGetInfo(&free, &total));
  return static_cast<std::int64_t>(free);
}

std::unique_ptr<Device> make_cuda_device(int ordinal, std::int64_t budget) {
  const int count = cuda_device_count();
  if (ordinal < 0 || ordinal >= count)
    throw DeviceError(fmt::format("there is no CUDA device {}; this process can use {}", ordinal, count));
  return std::make_unique<cuda::CudaDevice>(ordinal, budget);
}

}  // namespace longhaul
