#include "kernels/cpu/cpu_stream.h"

#include <pthread.h>
#include <sys/prctl.h>

#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/cpu/ops.h"

namespace longhaul {
namespace {

void call(const EmbedArgs& a) { cpu::embed(a); }
void call(const RmsNormArgs& a) { cpu::rms_norm(a); }
void call(const LinearArgs& a) { cpu::linear(a); }
void call(const ExpandArgs& a) { cpu::expand(a); }
void call(const HeadNormArgs& a) { cpu::head_norm(a); }
void call(const RopeArgs& a) { cpu::rope(a); }
void call(const SiluMulArgs& a) { cpu::silu_mul(a); }
void call(const RouteArgs& a) { cpu::route(a); }
void call(const ExpertLinearArgs& a) { cpu::expert_linear(a); }
void call(const MixArgs& a) { cpu::mix(a); }
void call(const AppendArgs& a) { cpu::append(a); }
void call(const AttendArgs& a) { cpu::attend(a); }
void call(const AppendStepArgs& a) { cpu::append_step(a); }
void call(const AttendStepArgs& a) { cpu::attend_step(a); }
void call(const FinishArgs& a) { cpu::finish(a); }
void call(const SampleArgs& a) { cpu::sample(a); }
void call(const FitLabelsArgs& a) { cpu::fit_labels(a); }
void call(const LabelRowsArgs& a) { cpu::label_rows(a); }
void call(const SelectArgs& a) { cpu::select(a); }
void call(const LocateArgs& a) { cpu::locate(a); }
void call(const ScoreListArgs& a) { cpu::score_list(a); }
void call(const FinishListArgs& a) { cpu::finish_list(a); }
void call(const RetainArgs& a) { cpu::retain(a); }
void call(const FillArgs& a) { cpu::fill(a); }
void call(const AddListMassArgs& a) { cpu::add_list_mass(a); }
void call(const AddMassArgs& a) { cpu::add_mass(a); }
void call(const StoreRowsArgs& a) { cpu::store_rows(a); }
void call(const JudgeArgs& a) { cpu::judge(a); }
void call(const MomentsArgs& a) { cpu::moments(a); }
void call(const MeanValuesArgs& a) { cpu::mean_values(a); }
void call(const RandomFillArgs& a) { cpu::random_fill(a); }
void call(const ReplayArgs& a) { cpu::replay(a); }
void call(const ChecksumArgs& a) { cpu::checksum(a); }

void copy_pieces(const CopyArgs& a) {
  check(a.width >= 0 && a.height >= 0, "a copy's width and height are not negative");
  check(a.height <= 1 || (a.dst_pitch >= a.width && a.src_pitch >= a.width), "a copy's pieces do not overlap");
  auto* dst = static_cast<std::byte*>(a.dst);
  auto* src = static_cast<const std::byte*>(a.src);
  if (a.width == 0) return;
  if (a.dst_pitch == a.width && a.src_pitch == a.width) {
    std::memcpy(dst, src, a.width * a.height);
    return;
  }
  for (std::int64_t i = 0; i < a.height; ++i) std::memcpy(dst + i * a.dst_pitch, src + i * a.src_pitch, a.width);
}

}  // namespace

CpuStream::CpuStream(CpuMachine& machine, std::string_view name)
    : machine_(machine),
      name_(name),
      busy_(machine.count([&](DeviceCounters& c) { return &c.busy_seconds[name_]; })),
      random_(machine.options().seed ^ std::hash<std::string>{}(name_)) {
  for (const CpuDelay& rule : machine.options().delays)
    if (rule.stream.empty() || rule.stream == name_) delays_.push_back({rule});
  thread_ = std::thread([this] { run(); });
}

CpuStream::~CpuStream() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  ready_.notify_one();
  thread_.join();
}

void CpuStream::record(Event& event) {
  auto& state = static_cast<CpuEvent&>(event).state;
  push(Record{state, state->open()});
}

void CpuStream::wait(const Event& event, Edge edge) {
  if (machine_.drops(edge)) return;
  auto& state = static_cast<const CpuEvent&>(event).state;
  double* stalled = machine_.count([&](DeviceCounters& c) { return &c.stall_seconds[std::string(edge.name)]; });
  push(Wait{state, state->latest(), stalled});
}

void CpuStream::push(Task task) {
  machine_.enqueued();
  bool asleep;
  {
    std::lock_guard lock(mutex_);
    asleep = queue_.empty();
    queue_.push_back(std::move(task));
  }
  if (asleep) ready_.notify_one();
}

void CpuStream::run() {
  pthread_setname_np(pthread_self(), name_.substr(0, 15).c_str());
  prctl(PR_SET_TIMERSLACK, 1);  // the default rounds every sleep up by 50 us, which is a megabyte on a fast link
  for (std::vector<Task> batch;;) {
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      batch.swap(queue_);  // both keep their capacity
    }
    for (const Task& task : batch) {
      std::visit([this](const auto& t) { execute(t); }, task);
      machine_.done();
    }
    batch.clear();
  }
}

void CpuStream::execute(const Record& record) { record.event->pass(record.generation); }

void CpuStream::execute(const Wait& wait) {
  double seconds = wait.event->wait(wait.generation);
  if (seconds > 0) machine_.count([&](DeviceCounters&) { *wait.stalled += seconds; });
}

/// After a failure records still pass, so that nothing hangs, but no work runs.
template <class Args>
void CpuStream::execute(const Args& args) {
  if (machine_.failed()) return;
  try {
    delay();
    auto start = CpuMachine::Clock::now();
    machine_.begin_work();
    const std::int64_t bytes = work(args);
    std::chrono::duration<double> took = CpuMachine::Clock::now() - start;
    machine_.count([&](DeviceCounters& c) {
      *busy_ += took.count();
      if constexpr (std::is_same_v<Args, CopyArgs>) {
        ++c.copies;
        if (args.kind == CopyKind::host_to_device) c.h2d_bytes += bytes;
        if (args.kind == CopyKind::device_to_host) c.d2h_bytes += bytes;
      } else if constexpr (std::is_same_v<Args, GatherArgs>) {
        ++c.copies;
        c.h2d_bytes += bytes;
      } else {
        ++c.launches;
      }
    });
  } catch (...) {
    machine_.fail(name_);
  }
}

template <class Args>
std::int64_t CpuStream::work(const Args& args) {
  if constexpr (std::is_same_v<Args, CopyArgs>) {
    const std::int64_t bytes = args.width * args.height;
    auto across = machine_.reserve_link(args.kind, bytes);
    copy_pieces(args);
    std::this_thread::sleep_until(across);
    return bytes;
  } else if constexpr (std::is_same_v<Args, GatherArgs>) {
    const std::int64_t bytes = cpu::gather(args);
    std::this_thread::sleep_until(machine_.reserve_link(CopyKind::host_to_device, bytes));
    return bytes;
  } else {
    call(args);
    return 0;
  }
}

void CpuStream::delay() {
  for (Delay& d : delays_) {
    if (++d.met % d.rule.every != 0) continue;
    auto sleep = d.rule.microseconds;
    if (d.rule.random) sleep = std::uniform_int_distribution<std::int64_t>(0, sleep)(random_);
    std::this_thread::sleep_for(std::chrono::microseconds(sleep));
  }
}

}  // namespace longhaul
