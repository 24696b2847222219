// A stream of the CPU device: a thread that runs what is enqueued, in order. The caller owns it; destroying it runs it
// dry.
#pragma once
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <variant>
#include <vector>

#include "kernels/cpu/cpu_machine.h"

namespace longhaul {

class CpuStream final : public Stream {
 public:
  CpuStream(CpuMachine& machine, std::string_view name);
  ~CpuStream() override;

  void copy(const CopyArgs& a) override { push(a); }
  void record(Event& event) override;
  void wait(const Event& event, Edge edge) override;

  void launch(const EmbedArgs& a) override { push(a); }
  void launch(const RmsNormArgs& a) override { push(a); }
  void launch(const LinearArgs& a) override { push(a); }
  void launch(const ExpandArgs& a) override { push(a); }
  void launch(const HeadNormArgs& a) override { push(a); }
  void launch(const RopeArgs& a) override { push(a); }
  void launch(const SiluMulArgs& a) override { push(a); }
  void launch(const RouteArgs& a) override { push(a); }
  void launch(const ExpertLinearArgs& a) override { push(a); }
  void launch(const MixArgs& a) override { push(a); }
  void launch(const AppendArgs& a) override { push(a); }
  void launch(const AttendArgs& a) override { push(a); }
  void launch(const AppendStepArgs& a) override { push(a); }
  void launch(const AttendStepArgs& a) override { push(a); }
  void launch(const FinishArgs& a) override { push(a); }
  void launch(const SampleArgs& a) override { push(a); }

  void launch(const FitLabelsArgs& a) override { push(a); }
  void launch(const LabelRowsArgs& a) override { push(a); }
  void launch(const SelectArgs& a) override { push(a); }
  void launch(const LocateArgs& a) override { push(a); }
  void launch(const GatherArgs& a) override { push(a); }
  void launch(const ScoreListArgs& a) override { push(a); }
  void launch(const FinishListArgs& a) override { push(a); }
  void launch(const RetainArgs& a) override { push(a); }
  void launch(const FillArgs& a) override { push(a); }
  void launch(const AddListMassArgs& a) override { push(a); }
  void launch(const AddMassArgs& a) override { push(a); }
  void launch(const StoreRowsArgs& a) override { push(a); }
  void launch(const JudgeArgs& a) override { push(a); }
  void launch(const MomentsArgs& a) override { push(a); }
  void launch(const MeanValuesArgs& a) override { push(a); }

  void launch(const RandomFillArgs& a) override { push(a); }
  void launch(const ReplayArgs& a) override { push(a); }
  void launch(const ChecksumArgs& a) override { push(a); }

 private:
  struct Record {
    std::shared_ptr<CpuEventState> event;
    std::int64_t generation;
  };
  struct Wait {
    std::shared_ptr<CpuEventState> event;
    std::int64_t generation;
    double* stalled;  // the edge's counter
  };
  struct Delay {
    CpuDelay rule;
    std::int64_t met = 0;  // copies and operators so far
  };
  /// By value, so that enqueueing allocates nothing once the queue has grown.
  using Task =
      std::variant<CopyArgs, Record, Wait, EmbedArgs, RmsNormArgs, LinearArgs, ExpandArgs, HeadNormArgs, RopeArgs,
                   SiluMulArgs, RouteArgs, ExpertLinearArgs, MixArgs, AppendArgs, AttendArgs, AppendStepArgs,
                   AttendStepArgs, FinishArgs, SampleArgs, FitLabelsArgs, LabelRowsArgs, SelectArgs, LocateArgs,
                   GatherArgs, ScoreListArgs, FinishListArgs, RetainArgs, FillArgs, AddListMassArgs, AddMassArgs,
                   StoreRowsArgs, JudgeArgs, MomentsArgs, MeanValuesArgs, RandomFillArgs, ReplayArgs, ChecksumArgs>;

  void push(Task task);
  void run();
  void execute(const Record& record);
  void execute(const Wait& wait);
  template <class Args>
  void execute(const Args& args);
  template <class Args>
  std::int64_t work(const Args& args);  // bytes across the link
  void delay();

  CpuMachine& machine_;
  const std::string name_;
  double* const busy_;  // the stream's counter
  std::vector<Delay> delays_;
  std::mt19937_64 random_;

  std::mutex mutex_;  // of queue_ and stop_
  std::condition_variable ready_;
  std::vector<Task> queue_;
  bool stop_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace longhaul
