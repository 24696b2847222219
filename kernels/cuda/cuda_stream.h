// A CUDA stream and a CUDA event behind the Device's interface.
#pragma once
#include "kernels/cuda/machine.h"

namespace longhaul::cuda {

class CudaEvent final : public Event {
 public:
  cudaEvent_t get() const { return event_.get(); }

 private:
  EventHandle event_;
};

class CudaStream final : public Stream {
 public:
  explicit CudaStream(Machine& machine) : machine_(machine) {}
  ~CudaStream() override;

  void copy(const CopyArgs&) override;
  void record(Event&) override;
  void wait(const Event&, Edge) override;

  void launch(const EmbedArgs&) override;
  void launch(const RmsNormArgs&) override;
  void launch(const LinearArgs&) override;
  void launch(const RopeArgs&) override;
  void launch(const SiluMulArgs&) override;
  void launch(const AppendArgs&) override;
  void launch(const AttendArgs&) override;
  void launch(const AppendStepArgs&) override;
  void launch(const AttendStepArgs&) override;
  void launch(const FinishArgs&) override;
  void launch(const SampleArgs&) override;

 private:
  void begin_launch();

  Machine& machine_;
  StreamHandle stream_;
};

}  // namespace longhaul::cuda
