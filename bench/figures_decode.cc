// Whole decode steps: streaming, sparse with every row on the device, and offload, with the reuse of a trace and with
// none.
#include <optional>

#include "bench/figure_sections.h"
#include "kernels/base/bytes.h"
#include "runtime/plan/peaks.h"

namespace longhaul::bench {
namespace {

/// Runs each setting once and keeps its times: several figures compare the same runs.
class DecodeRuns {
 public:
  struct Run {
    StepTimes times;
    StepBytes bytes;
    std::string setting;
  };

  explicit DecodeRuns(const SectionFlags& flags) : flags_(flags) {}

  /// `sets` under those of the command line.
  Run measure(const std::string& policy, const std::vector<std::string>& sets,
              std::shared_ptr<const Replay> replay = nullptr) const {
    SyntheticSetting setting = flags_.setting;
    setting.policy = policy;
    setting.sets.insert(setting.sets.begin(), sets.begin(), sets.end());
    setting.replay = std::move(replay);
    SyntheticRun run(setting);
    run.fill();
    // A step that streams all rows takes long and hardly varies.
    const bool streams = run.bytes().streamed + run.bytes().streamed_weights > 0;
    const StepTimes times = run.step(streams ? 2 : flags_.warm, streams ? 5 : flags_.steps);
    std::string text = run.describe();
    if (times.rows > 0)
      text += fmt::format(", hits {:.3f}, staged {:.3f}, missed {:.3f} of {:.0f} rows", times.hits / times.rows,
                          times.staged / times.rows, times.missed / times.rows, times.rows);
    text += fmt::format(", {:.3f} ms", times.seconds * 1e3);
    fmt::print("  {}\n", text);
    return {times, run.bytes(), std::move(text)};
  }

 private:
  const SectionFlags& flags_;
};

struct Peaks {
  double copy, link;
};

Peaks measure_peaks(const SectionFlags& flags) {
  const auto device = open_device(flags.setting.device, std::int64_t{8} << 30, 0);
  return {copy_bandwidth(*device), link_bandwidth(*device, CopyKind::host_to_device)};
}

std::string beside(const DecodeRuns::Run& of, const char* what, const DecodeRuns::Run& other) {
  return fmt::format("{}; {} {:.3f} ms ({})", of.setting, what, other.times.seconds * 1e3, other.setting);
}

}  // namespace

void decode_figures(Figures& figures, const SectionFlags& flags) {
  const std::vector<std::string> all{"stream_vs_link",
                                     "decode_sparse_resident_vs_bound",
                                     "decode_offload_vs_sparse_resident",
                                     "decode_offload_vs_stream_noreuse",
                                     "decode_offload_vs_stream_reuse",
                                     "decode_offload_k2048_vs_stream_reuse"};
  if (!figures.wants_any(all)) return;
  const Peaks peaks = measure_peaks(flags);
  const DecodeRuns runs(flags);
  const std::int64_t context = flags.setting.context;
  const std::string sixteenth = "share=1/16", few = fmt::format("rows={}", flags.k);
  // Nothing but sinks, window and a resident set of eight times the budget, the most that plans give, stays on the
  // device, whatever would fit.
  auto offloaded = [](const std::string& budget) -> std::vector<std::string> {
    return {budget, "resident=0.0", "cache=8.0"};
  };

  std::optional<DecodeRuns::Run> stream;
  if (figures.wants_any({all[0], all[3], all[4], all[5]})) {
    stream = runs.measure("stream", {"resident=0.0"});
    const double bytes = static_cast<double>(stream->bytes.streamed);
    figures.add(figure("stream_vs_link", bytes / stream->times.seconds / 1e9, "GB/s", peaks.link / 1e9,
                       fmt::format("{}, {:.0f} bytes a step", stream->setting, bytes)));
  }
  if (figures.wants("decode_offload_vs_stream_noreuse")) {
    const auto offload = runs.measure("offload", offloaded(sixteenth), no_reuse(flags.recall));
    figures.add(figure("decode_offload_vs_stream_noreuse", stream->times.seconds / offload.times.seconds, "x",
                       static_cast<double>(stream->bytes.attended) / static_cast<double>(offload.bytes.attended),
                       beside(offload, "stream", *stream) + "; the bound is the ratio of bytes"));
  }
  std::optional<DecodeRuns::Run> sparse;
  if (figures.wants_any({all[1], all[2], all[5]})) {
    sparse = runs.measure("sparse-resident", {few});
    const double bytes = static_cast<double>(sparse->bytes.weights + sparse->bytes.labels);
    figures.add(figure("decode_sparse_resident_vs_bound", sparse->times.seconds / (bytes / peaks.copy), "x", 1,
                       fmt::format("{}; the bound is {:.3f} ms: weights and labels, {:.0f} bytes, once at the {:.0f} "
                                   "GB/s of a device copy",
                                   sparse->setting, bytes / peaks.copy * 1e3, bytes, peaks.copy / 1e9)));
  }
  auto told = [&](const std::string& trace) {
    return fmt::format("; trace {}{}{}", trace, flags.accuracy.empty() ? "" : ", ", flags.accuracy);
  };
  if (!flags.trace.empty() && figures.wants("decode_offload_vs_stream_reuse")) {
    KvPolicy policy = load_policy("offload", {sixteenth});
    const auto resident = runs.measure("sparse-resident", {sixteenth});
    const auto offload = runs.measure("offload", offloaded(sixteenth),
                                      load_replay(flags.trace, 256, policy.budget(context), flags.recall));
    figures.add(figure("decode_offload_vs_stream_reuse", stream->times.seconds / offload.times.seconds, "x",
                       stream->times.seconds / resident.times.seconds,
                       fmt::format("{}; the bound is sparse-resident ({}){}", beside(offload, "stream", *stream),
                                   resident.setting, told(flags.trace))));
    if (flags.setting.gpu_memory) {  // the same with as many rows resident as the budget holds
      const auto same = runs.measure("stream", {});
      figures.add(figure("decode_offload_vs_stream_same_memory", same.times.seconds / offload.times.seconds, "x",
                         stream->times.seconds / resident.times.seconds,
                         beside(offload, "stream", same) + told(flags.trace)));
    }
  }
  if (!flags.trace_k.empty() && figures.wants_any({all[2], all[5]})) {
    const auto offload =
        runs.measure("offload", offloaded(few), load_replay(flags.trace_k, 256, flags.k, flags.recall));
    figures.add(figure("decode_offload_vs_sparse_resident", offload.times.seconds / sparse->times.seconds, "x", 1,
                       beside(offload, "sparse-resident", *sparse) + told(flags.trace_k)));
    if (stream)
      figures.add(figure("decode_offload_k2048_vs_stream_reuse", stream->times.seconds / offload.times.seconds, "x",
                         stream->times.seconds / sparse->times.seconds,
                         beside(offload, "stream", *stream) + told(flags.trace_k)));
  }
}

void step_figure(Figures& figures, const SectionFlags& flags) {
  const SyntheticSetting& s = flags.setting;
  const std::string name = "step_" + name_of(s);
  if (!figures.wants(name)) return;
  const Peaks peaks = measure_peaks(flags);
  std::shared_ptr<const Replay> replay;
  const KvPolicy policy = load_policy(s.policy, s.sets);
  if (!flags.trace.empty()) replay = load_replay(flags.trace, 256, policy.budget(s.context), flags.recall);
  const auto run = DecodeRuns(flags).measure(s.policy, {}, replay);
  const auto row = static_cast<double>(kv_shape(s.geometry.config, {.policy = policy}).row_bytes());
  const double link = static_cast<double>(run.bytes.streamed + run.bytes.streamed_weights) + run.times.missed * row;
  const double device = static_cast<double>(run.bytes.weights + run.bytes.labels + run.bytes.attended);
  const double bound = std::max(link / peaks.link, device / peaks.copy);
  figures.add(figure(name, run.times.seconds * 1e3, "ms", bound * 1e3,
                     fmt::format("{}; {:.1f} tokens/s; the bound: {:.0f} bytes of device memory, {:.0f} over the link",
                                 run.setting, static_cast<double>(s.batch) / run.times.seconds, device, link)));
}

}  // namespace longhaul::bench
