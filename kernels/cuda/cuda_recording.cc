#include "kernels/cuda/cuda_recording.h"

#include "kernels/base/error.h"

namespace longhaul::cuda {

CudaRecording::CudaRecording(Machine& machine, std::span<Stream* const> streams, const std::function<void()>& enqueue)
    : machine_(machine), reached_(streams.size()) {
  machine.enter();
  for (Stream* stream : streams) streams_.push_back(static_cast<CudaStream*>(stream)->get());
  const DeviceCounters before = machine.counters;
  static std::uint64_t captures = 0;  // one host thread
  // Relaxed: a kernel that is launched for the first time may be loaded meanwhile.
  check(cudaStreamBeginCapture(streams_[0], cudaStreamCaptureModeRelaxed));
  machine.capture = ++captures;
  cudaGraph_t graph = nullptr;
  try {
    follow_origin();
    enqueue();
    join_origin();
  } catch (...) {
    machine.capture = 0;
    cudaStreamEndCapture(streams_[0], &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();  // told by what was thrown
    throw;
  }
  machine.capture = 0;
  check(cudaStreamEndCapture(streams_[0], &graph));
  graph_.instantiate(graph);
  launches_ = machine.counters.launches - before.launches;
  copies_ = machine.counters.copies - before.copies;
  h2d_bytes_ = machine.counters.h2d_bytes - before.h2d_bytes;
  d2h_bytes_ = machine.counters.d2h_bytes - before.d2h_bytes;
  machine.counters = before;
}

void CudaRecording::replay() {
  machine_.enter();
  join_origin();
  check(cudaGraphLaunch(graph_.get(), streams_[0]));
  follow_origin();
  machine_.counters.launches += launches_;
  machine_.counters.copies += copies_;
  machine_.counters.h2d_bytes += h2d_bytes_;
  machine_.counters.d2h_bytes += d2h_bytes_;
}

void CudaRecording::join_origin() {
  for (std::size_t i = 1; i < streams_.size(); ++i) {
    check(cudaEventRecord(reached_[i].get(), streams_[i]));
    check(cudaStreamWaitEvent(streams_[0], reached_[i].get()));
  }
}

void CudaRecording::follow_origin() {
  check(cudaEventRecord(reached_[0].get(), streams_[0]));
  for (std::size_t i = 1; i < streams_.size(); ++i) check(cudaStreamWaitEvent(streams_[i], reached_[0].get()));
}

}  // namespace longhaul::cuda
