// A CUDA stream and a CUDA event behind the Device's interface.
#pragma once
#include "kernels/cuda/machine.h"

namespace longhaul::cuda {

class CudaEvent final : public Event {
 public:
  cudaEvent_t get() const { return event_.get(); }

 private:
  friend class CudaStream;
  EventHandle event_;
  std::uint64_t capture_ = 0;  // in which it was last recorded; 0: in none
};

class CudaStream final : public Stream {
 public:
  CudaStream(Machine& machine, std::string_view name) : machine_(machine), name_(name) {}
  ~CudaStream() override;
  cudaStream_t get() const { return stream_.get(); }

  void copy(const CopyArgs&) override;
  void record(Event&) override;
  void wait(const Event&, Edge) override;

  void launch(const EmbedArgs&) override;
  void launch(const RmsNormArgs&) override;
  void launch(const LinearArgs&) override;
  void launch(const ExpandArgs&) override;
  void launch(const HeadNormArgs&) override;
  void launch(const RopeArgs&) override;
  void launch(const SiluMulArgs&) override;
  void launch(const RouteArgs&) override;
  void launch(const ExpertLinearArgs&) override;
  void launch(const MixArgs&) override;
  void launch(const AppendArgs&) override;
  void launch(const AttendArgs&) override;
  void launch(const AppendStepArgs&) override;
  void launch(const AttendStepArgs&) override;
  void launch(const FinishArgs&) override;
  void launch(const SampleArgs&) override;
  void launch(const RandomFillArgs&) override;
  void launch(const ReplayArgs&) override;
  void launch(const ChecksumArgs&) override;

  void launch(const FitLabelsArgs&) override;
  void launch(const LabelRowsArgs&) override;
  void launch(const FillArgs&) override;
  void launch(const AddListMassArgs&) override;
  void launch(const AddMassArgs&) override;
  void launch(const StoreRowsArgs&) override;
  void launch(const JudgeArgs&) override;
  void launch(const MomentsArgs&) override;
  void launch(const MeanValuesArgs&) override;
  void launch(const ScoreListArgs&) override;
  void launch(const FinishListArgs&) override;

  void launch(const LocateArgs&) override;
  void launch(const GatherArgs&) override;
  void launch(const RetainArgs&) override;
  void launch(const SelectArgs&) override;

 private:
  void begin_launch();
  /// Enqueues with the clock around it, if that is on; never within a recording.
  template <class Enqueue>
  void clocked(StreamClock::Counts as, std::string_view name, const Enqueue& enqueue) {
    machine_.capture == 0 ? machine_.clock.around(stream_.get(), as, name, enqueue) : enqueue();
  }
  void copy_part(const CopyArgs&);  // within one registration

  Machine& machine_;
  std::string name_;
  StreamHandle stream_;
};

}  // namespace longhaul::cuda
