// Owners of CUDA's handles. No default state, they move but are not assigned, and their destructors drop errors: after
// a sticky error every call fails, and whoever waits next is told.
#pragma once
#include <cstddef>
#include <utility>

#include "kernels/cuda/allocate.h"
#include "kernels/cuda/check.h"

namespace longhaul::cuda {

/// Does not wait for the legacy default stream.
class StreamHandle {
 public:
  StreamHandle() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  StreamHandle(StreamHandle&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  StreamHandle& operator=(StreamHandle&&) = delete;
  ~StreamHandle() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Orders; keeps no time.
class EventHandle {
 public:
  EventHandle() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  EventHandle(EventHandle&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  EventHandle& operator=(EventHandle&&) = delete;
  ~EventHandle() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Orders nothing; keeps the time at which it passed.
class TimerHandle {
 public:
  TimerHandle() { check(cudaEventCreate(&event_)); }
  TimerHandle(TimerHandle&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  TimerHandle& operator=(TimerHandle&&) = delete;
  ~TimerHandle() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// An executable graph; empty until it is instantiated.
class GraphHandle {
 public:
  GraphHandle() = default;
  GraphHandle(GraphHandle&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  GraphHandle& operator=(GraphHandle&&) = delete;
  ~GraphHandle() {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
  }
  /// Takes `graph` and destroys it.
  void instantiate(cudaGraph_t graph) {
    const cudaError_t error = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(error);
  }
  cudaGraphExec_t get() const { return graph_; }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

class BlasHandle {
 public:
  BlasHandle() { check(cublasLtCreate(&handle_)); }
  BlasHandle(BlasHandle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  BlasHandle& operator=(BlasHandle&&) = delete;
  ~BlasHandle() {
    if (handle_ != nullptr) cublasLtDestroy(handle_);
  }
  cublasLtHandle_t get() const { return handle_; }

 private:
  cublasLtHandle_t handle_ = nullptr;
};

/// One word of pinned host memory that kernels can write and the host reads without a call; zero at first.
template <class T>
class HostWord {
 public:
  HostWord() : word_(static_cast<T*>(allocate_pinned(sizeof(T)))) { *word_ = 0; }
  HostWord(HostWord&& other) noexcept : word_(std::exchange(other.word_, nullptr)) {}
  HostWord& operator=(HostWord&&) = delete;
  ~HostWord() {
    if (word_ != nullptr) cudaFreeHost(word_);
  }
  T* get() const { return word_; }
  T read() const { return *static_cast<volatile T*>(word_); }

 private:
  T* word_;
};

}  // namespace longhaul::cuda
