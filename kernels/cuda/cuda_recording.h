// A CUDA graph of work on several streams, behind the Device's Recording.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "kernels/cuda/cuda_stream.h"

namespace longhaul::cuda {

class CudaRecording final : public Recording {
 public:
  /// Captures what `enqueue` enqueues; the first stream is the one that the others fork from and join.
  CudaRecording(Machine& machine, std::span<Stream* const> streams, const std::function<void()>& enqueue);
  void replay() override;

 private:
  void join_origin();    // the first stream waits for the others
  void follow_origin();  // the others wait for the first

  Machine& machine_;
  std::vector<cudaStream_t> streams_;
  std::vector<EventHandle> reached_;  // by stream
  GraphHandle graph_;
  std::int64_t launches_ = 0, copies_ = 0, h2d_bytes_ = 0, d2h_bytes_ = 0;  // of one replay
};

}  // namespace longhaul::cuda
