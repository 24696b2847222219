// Whole decode steps: streaming, sparse with every row on the device, and offload, with the reuse of a trace and with
// none.
#include <optional>

#include "bench/bounds.h"
#include "bench/figure_sections.h"

namespace longhaul::bench {
namespace {

constexpr const char* kSixteenth = "share=1/16";

/// Steps behind rows that were filled in; `sets` under those of the command line.
StepRun decode(const SectionFlags& flags, const std::string& policy, const std::vector<std::string>& sets,
               std::shared_ptr<const Replay> replay = nullptr) {
  SyntheticSetting setting = flags.setting;
  setting.policy = policy;
  setting.sets.insert(setting.sets.begin(), sets.begin(), sets.end());
  setting.replay = std::move(replay);
  SyntheticRun run(setting);
  run.fill();
  return run.step(flags.warm, flags.steps);
}

std::string beside(const StepRun& of, const char* what, const StepRun& other) {
  return fmt::format("{}; {} {:.3f} ms ({})", of.setting, what, other.times.seconds * 1e3, other.setting);
}

std::string told(const std::string& trace, const std::string& accuracy) {
  return fmt::format("; trace {}{}{}", trace, accuracy.empty() ? "" : ", ", accuracy);
}

/// Both policies as they place rows under --gpu-memory.
void same_memory_figure(Figures& figures, const SectionFlags& flags) {
  const std::string name = "decode_offload_vs_stream_same_memory";
  if (!figures.wants(name) || flags.trace.empty()) return;
  const Peaks peaks = measure_peaks(flags.setting.device);
  const KvPolicy policy = load_policy("offload", {kSixteenth});
  const StepRun stream = decode(flags, "stream", {});
  const StepRun offload = decode(flags, "offload", {kSixteenth},
                                 load_replay(flags.trace, 256, policy.budget(flags.setting.context), flags.recall));
  const StepBound bound = step_bound(offload, peaks);
  figures.add(figure(
      name, stream.times.seconds / offload.times.seconds, "x", stream.times.seconds / bound.seconds,
      fmt::format("{}; {}{}", beside(offload, "stream", stream), bound.text, told(flags.trace, flags.accuracy))));
}

}  // namespace

void decode_figures(Figures& figures, const SectionFlags& flags) {
  // The other figures need every row on the device, or place rows as no budget would.
  if (flags.setting.gpu_memory) return same_memory_figure(figures, flags);
  const std::vector<std::string> all{"stream_vs_link",
                                     "decode_sparse_resident_vs_bound",
                                     "decode_offload_vs_sparse_resident",
                                     "decode_offload_vs_stream_noreuse",
                                     "decode_offload_vs_stream_reuse",
                                     "decode_offload_k2048_vs_stream_reuse"};
  if (!figures.wants_any(all)) return;
  const Peaks peaks = measure_peaks(flags.setting.device);
  const std::int64_t context = flags.setting.context;
  const std::string few = fmt::format("rows={}", flags.k);
  // Nothing but sinks, window and a resident set of eight times the budget, the most that plans give, stays on the
  // device, whatever would fit.
  auto offloaded = [](const std::string& budget) -> std::vector<std::string> {
    return {budget, "resident=0.0", "cache=8.0"};
  };

  std::optional<StepRun> stream;
  if (figures.wants_any({all[0], all[3], all[4], all[5]})) {
    stream = decode(flags, "stream", {"resident=0.0"});
    const double bytes = static_cast<double>(stream->bytes.streamed);
    figures.add(figure("stream_vs_link", bytes / stream->times.seconds / 1e9, "GB/s", peaks.link / 1e9,
                       fmt::format("{}, {:.0f} bytes a step", stream->setting, bytes)));
  }
  if (figures.wants("decode_offload_vs_stream_noreuse")) {
    const auto offload = decode(flags, "offload", offloaded(kSixteenth), no_reuse(flags.recall));
    figures.add(figure("decode_offload_vs_stream_noreuse", stream->times.seconds / offload.times.seconds, "x",
                       static_cast<double>(stream->bytes.attended) / static_cast<double>(offload.bytes.attended),
                       beside(offload, "stream", *stream) + "; the bound is the ratio of bytes"));
  }
  std::optional<StepRun> sparse;
  if (figures.wants_any({all[1], all[2], all[5]})) {
    sparse = decode(flags, "sparse-resident", {few});
    const double bytes = static_cast<double>(sparse->bytes.weights + sparse->bytes.labels);
    figures.add(figure("decode_sparse_resident_vs_bound", sparse->times.seconds / (bytes / peaks.copy), "x", 1,
                       fmt::format("{}; the bound is {:.3f} ms: weights and labels, {:.0f} bytes, once at the {:.0f} "
                                   "GB/s of a device copy",
                                   sparse->setting, bytes / peaks.copy * 1e3, bytes, peaks.copy / 1e9)));
  }
  if (!flags.trace.empty() && figures.wants("decode_offload_vs_stream_reuse")) {
    KvPolicy policy = load_policy("offload", {kSixteenth});
    const auto resident = decode(flags, "sparse-resident", {kSixteenth});
    const auto offload = decode(flags, "offload", offloaded(kSixteenth),
                                load_replay(flags.trace, 256, policy.budget(context), flags.recall));
    figures.add(figure("decode_offload_vs_stream_reuse", stream->times.seconds / offload.times.seconds, "x",
                       stream->times.seconds / resident.times.seconds,
                       fmt::format("{}; the bound is sparse-resident ({}){}", beside(offload, "stream", *stream),
                                   resident.setting, told(flags.trace, flags.accuracy))));
  }
  if (!flags.trace_k.empty() && figures.wants_any({all[2], all[5]})) {
    const auto offload =
        decode(flags, "offload", offloaded(few), load_replay(flags.trace_k, 256, flags.k, flags.recall));
    figures.add(figure("decode_offload_vs_sparse_resident", offload.times.seconds / sparse->times.seconds, "x", 1,
                       beside(offload, "sparse-resident", *sparse) + told(flags.trace_k, flags.accuracy_k)));
    if (stream)
      figures.add(figure("decode_offload_k2048_vs_stream_reuse", stream->times.seconds / offload.times.seconds, "x",
                         stream->times.seconds / sparse->times.seconds,
                         beside(offload, "stream", *stream) + told(flags.trace_k, flags.accuracy_k)));
  }
}

void step_figure(Figures& figures, const SectionFlags& flags) {
  const SyntheticSetting& s = flags.setting;
  const std::string name = "step_" + name_of(s);
  if (!figures.wants(name)) return;
  const Peaks peaks = measure_peaks(flags.setting.device);
  std::shared_ptr<const Replay> replay;
  const KvPolicy policy = load_policy(s.policy, s.sets);
  if (!flags.trace.empty()) replay = load_replay(flags.trace, 256, policy.budget(s.context), flags.recall);
  const auto run = decode(flags, s.policy, {}, replay);
  const StepBound bound = step_bound(run, peaks);
  figures.add(figure(name, run.times.seconds * 1e3, "ms", bound.seconds * 1e3,
                     fmt::format("{}; {:.1f} tokens/s; {}", run.setting,
                                 static_cast<double>(s.batch) / run.times.seconds, bound.text)));
}

}  // namespace longhaul::bench
