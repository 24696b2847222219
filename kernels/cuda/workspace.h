// Device memory that a library's calls use while they run, the streams in turn: a stream that comes after another waits
// for what that one has enqueued. Owned by its user; the memory is the device's.
#pragma once
#include <cstddef>

#include "kernels/cuda/handles.h"

namespace longhaul::cuda {

class Workspace {
 public:
  explicit Workspace(std::byte* data) : data_(data) {}
  std::byte* data() const { return data_; }

  void enter(cudaStream_t stream) {
    if (last_ != nullptr && last_ != stream) {
      check(cudaEventRecord(handed_over_.get(), last_));
      check(cudaStreamWaitEvent(stream, handed_over_.get()));
    }
    last_ = stream;
  }
  /// The stream ends, its work done.
  void forget(cudaStream_t stream) {
    if (last_ == stream) last_ = nullptr;
  }

 private:
  EventHandle handed_over_;
  std::byte* data_;
  cudaStream_t last_ = nullptr;  // who uses it
};

}  // namespace longhaul::cuda
