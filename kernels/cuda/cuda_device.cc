#include "kernels/cuda_device.h"

#include <chrono>

#include "kernels/base/error.h"
#include "kernels/cuda/cuda_recording.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda_absence.h"

namespace longhaul {
namespace cuda {
namespace {

/// Makes the device current, so that what follows in the constructor's list is made on it.
int use(int ordinal) {
  check(cudaSetDevice(ordinal));
  return ordinal;
}

static_assert(Machine::kWorkspaceBytes == kCudaWorkspaceBytes, "plans of machines without a GPU count it too");

class CudaDevice final : public Device {
 public:
  CudaDevice(int ordinal, std::int64_t budget, const GatherChoice& choice)
      : Device(budget),
        ordinal_(use(ordinal)),
        host_node_(cuda_host_node(ordinal)),
        workspace_(allocate(Machine::kWorkspaceBytes, "workspace of the libraries")),
        machine_(ordinal, host_node_, workspace_.data(), choice) {}
  ~CudaDevice() override {
    cudaSetDevice(ordinal_);
    cudaDeviceSynchronize();
  }

  std::string describe() const override {
    return fmt::format("{}; attention by {}", cuda_name(ordinal_), machine_.attention.describe());
  }
  std::unique_ptr<Stream> make_stream(std::string_view name) override {
    machine_.enter();
    return std::make_unique<CudaStream>(machine_, name);
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
    machine_.clock.collect(machine_.counters);
  }

  void pin(std::byte* data, std::int64_t bytes, const PinReport& report) override {
    machine_.enter();
    machine_.pins.pin(data, bytes, report);
  }
  void unpin(std::byte* data) noexcept override {
    cudaSetDevice(ordinal_);
    cudaDeviceSynchronize();  // after an exception on the host, copies may still be under way
    machine_.pins.unpin(data);
  }
  std::unique_ptr<Recording> record(std::span<Stream* const> streams, const std::function<void()>& enqueue) override {
    return std::make_unique<CudaRecording>(machine_, streams, enqueue);
  }
  void measure_streams(bool on) override { machine_.clock.turn(on); }
  int host_node() const override { return host_node_; }
  DeviceCounters counters() const override {
    DeviceCounters counters = machine_.counters;
    counters.h2d_bytes += machine_.gatherer.bytes();
    return counters;
  }

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
  std::int64_t raw_left() const override { return cuda_free_memory(ordinal_); }
  void raw_free(std::byte* data, std::int64_t) noexcept override {
    cudaSetDevice(ordinal_);
    cudaFree(data);  // waits for the device
  }

 private:
  int ordinal_, host_node_;
  Buffer workspace_;
  Machine machine_;
};

const char* fault_text(Fault fault) {
  switch (fault) {
    case kNoFault:
      break;
    case kTokenOutsideVocabulary:
      return "embed: a token id outside the vocabulary";
    case kMissingRowsDoNotFit:
      return "locate: the list of missing rows has no room for them";
    case kRowsDoNotFitStaging:
      return "gather: the rows do not fit in staging";
    case kRowOutsideSource:
      return "gather: the source does not hold a row";
    case kHostGatherSilent:
      return "gather: the host's threads do not answer";
  }
  return "no fault";
}

}  // namespace

Machine::Machine(int ordinal, int host_node, std::byte* workspace, const GatherChoice& choice)
    : matmul(workspace),
      attention(workspace + Matmul::kWorkspaceBytes),
      pins({.add =
                [ordinal](std::byte* data, std::int64_t bytes) {
                  use(ordinal);
                  const cudaError_t error =
                      cudaHostRegister(data, static_cast<std::size_t>(bytes), cudaHostRegisterPortable);
                  if (error != cudaErrorHostMemoryAlreadyRegistered && severity_of(error) != Severity::fatal) {
                    cudaGetLastError();  // told by the result
                    return error == cudaSuccess;
                  }
                  check(error);
                  return false;
                },
            .remove =
                [ordinal](std::byte* data) {
                  cudaSetDevice(ordinal);
                  cudaHostUnregister(data);
                }},
           kPinnedChunk),
      gatherer(choice, host_node),
      ordinal_(ordinal) {
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, ordinal));
}

void Machine::enter() const {
  check(cudaSetDevice(ordinal_));
  if (const int fault = fault_.read(); fault != kNoFault) throw DeviceError(fault_text(static_cast<Fault>(fault)));
  if (failed_.load(std::memory_order_acquire)) std::rethrow_exception(failure_);
}

void Machine::fail(std::exception_ptr failure) noexcept {
  std::lock_guard lock(mutex_);
  if (failed_.load(std::memory_order_relaxed)) return;
  failure_ = std::move(failure);
  failed_.store(true, std::memory_order_release);
}

void attend(const AttendArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  if (a.act == DType::bf16 && a.head_dim <= 128) return attend_bf16(a, stream);
  attend_many(a, stream);
}

}  // namespace cuda

namespace {

/// The newest CUDA that the driver serves; 0: there is no driver.
int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

}  // namespace

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // no driver, or one too old
  return 0;
}

bool has_cuda_driver() { return driver_version() > 0; }

std::string cuda_absence() {
  CudaAnswers answers{.driver = driver_version(), .runtime = CUDART_VERSION};
  if (const cudaError_t error = cudaGetDeviceCount(&answers.devices); error != cudaSuccess) {
    answers.devices = 0;
    answers.failed = cudaGetErrorString(error);
  }
  cudaGetLastError();  // told by what is returned
  return absence_of_cuda(answers);
}

std::int64_t cuda_free_memory(int ordinal) {
  std::size_t free = 0, total = 0;
  cuda::use(ordinal);
  cuda::check(cudaMemGetInfo(&free, &total));
  return static_cast<std::int64_t>(free);
}

std::unique_ptr<Device> make_cuda_device(int ordinal, std::int64_t budget, const GatherChoice& choice) {
  const int count = cuda_device_count();
  if (count == 0) throw DeviceError(cuda_absence());
  if (ordinal < 0 || ordinal >= count)
    throw DeviceError(fmt::format("there is no CUDA device {}; this process can use {}", ordinal, count));
  return std::make_unique<cuda::CudaDevice>(ordinal, budget, choice);
}

}  // namespace longhaul
