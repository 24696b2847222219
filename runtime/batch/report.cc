#include "runtime/batch/report.h"

#include <algorithm>
#include <array>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/host_memory.h"
#include "offload/edges.h"
#include "runtime/batch/progress.h"
#include "runtime/model/weights.h"

namespace longhaul {
namespace {

double per_second(std::int64_t amount, double seconds) {
  return seconds > 0 ? static_cast<double>(amount) / seconds : 0;
}

/// The waits of the compute stream: what they take is time that a faster link or a larger budget would give back.
constexpr std::array kComputeWaits{
    edge::kTileReady,    edge::kRingFree,       edge::kLayerFree,    edge::kPrefillStored, edge::kHiddenFree,
    edge::kHiddenLanded, edge::kPrefetchLanded, edge::kMissesLanded, edge::kWeightsLanded, edge::kNextWeightsLanded};

bool is_compute_wait(const std::string& name) {
  return std::ranges::any_of(kComputeWaits, [&](Edge e) { return e.name == name; });
}

/// "compute 80.10 s, fetch 12.10 s" of the names that `wanted` takes; what took no measurable time is left out.
template <class Wanted>
std::string seconds_by_name(const std::map<std::string, double>& seconds, const Wanted& wanted) {
  std::string text;
  for (const auto& [name, s] : seconds)
    if (s >= 0.005 && wanted(name)) text += fmt::format("{}{} {:.2f} s", text.empty() ? "" : ", ", name, s);
  return text.empty() ? "none" : text;
}

/// "p50 1.20 s, p90 2.10 s, p99 2.30 s"; of no values "none".
std::string percentiles(std::vector<double> values, double scale, const char* unit) {
  if (values.empty()) return "none";
  std::ranges::sort(values);
  std::string text;
  for (const int p : {50, 90, 99}) {  // the least value that so many percent do not exceed
    const auto rank = static_cast<std::size_t>((p * std::ssize(values) + 99) / 100);
    text += fmt::format("{}p{} {:.2f} {}", text.empty() ? "" : ", ", p, scale * values[rank - 1], unit);
  }
  return text;
}

}  // namespace

std::string describe_rows(const RowCounts& rows) {
  auto percent = [](std::int64_t part, std::int64_t whole) {
    return 100.0 * static_cast<double>(part) / static_cast<double>(std::max<std::int64_t>(whole, 1));
  };
  std::string text = fmt::format("{:.2f} % of the rows attended, over all layers", percent(rows.attended, rows.all));
  if (rows.listed == 0) return text;
  const std::int64_t here = rows.listed - rows.cache_hits - rows.staged_hits - rows.missed;
  return text + fmt::format(
                    "; of the selected {:.1f} % were sinks or recent, {:.1f} % in the resident set, {:.1f} % "
                    "prefetched, {:.1f} % fetched on demand",
                    percent(here, rows.listed), percent(rows.cache_hits, rows.listed),
                    percent(rows.staged_hits, rows.listed), percent(rows.missed, rows.listed));
}

std::string describe_streaming(const ModelConfig& config, const EngineOptions& options, const Budget& budget) {
  std::int64_t bytes = kv_shape(config, options).session_bytes(options.max_len);
  const KvLayout layout = kv_layout(config, options);
  std::string cache =
      fmt::format("{} for the longest context ({} tokens)", format_bytes(bytes), with_commas(options.max_len));
  if (layout.all_resident()) return cache + ": all rows stay on the device";
  if (options.policy.selects())
    return fmt::format(
        "{} in host memory; on the device {} rows and a resident set of {} rows a layer and KV head; a step attends at "
        "most {}",
        cache, with_commas(layout.prefix_rows + layout.ring_rows), with_commas(layout.cache_rows),
        with_commas(layout.list_rows));
  return fmt::format(
      "{} {} device budget {}: {:.0f} % of the rows stay on the device, the rest is streamed at every step", cache,
      bytes > budget.device ? ">" : "and weights against", format_bytes(budget.device),
      100.0 * static_cast<double>(layout.prefix_rows) / static_cast<double>(layout.capacity));
}

std::string describe_placement(const ModelConfig& config, const EngineOptions& options) {
  const std::int64_t streamed = options.streamed_layers;
  std::string text = "all on the device";
  if (streamed > 0)
    text = fmt::format("{} of {} layers on the device, {} streamed: {} over the link at every step, once a prompt",
                       config.layers - streamed, config.layers, streamed,
                       format_bytes(streamed * layer_weight_bytes(config)));
  if (options.host_embedding) text += "; the embedding table in host memory";
  return text + fmt::format("; a prompt's hidden states in {} memory", options.spill_hidden ? "host" : "device");
}

std::optional<double> compute_stall_seconds(const DeviceCounters& counters) {
  if (counters.busy_seconds.empty()) return {};
  double seconds = 0;
  for (const auto& [name, stood] : counters.stall_seconds)
    if (is_compute_wait(name)) seconds += stood;
  return seconds;
}

std::string describe_bound(const JobStats& stats, const DeviceCounters& counters, std::int64_t sessions) {
  const double work = stats.prefill_seconds + stats.decode_seconds;
  std::string text = stats.load_seconds > work ? "loading the model took longer than answering" : "compute";
  if (const auto stalled = compute_stall_seconds(counters); stalled && work > 0) {
    const double share = 100 * *stalled / work;
    if (share > 20) text = fmt::format("the link: compute stood {:.0f} % of the time at copies", share);
    else text += fmt::format("; it stood {:.0f} % of the time at copies", share);
  }
  if (sessions < stats.wanted_sessions)
    text += fmt::format("; memory: {} documents together, where {} were wanted", sessions, stats.wanted_sessions);
  return text;
}

std::string report(const JobStats& stats, const Engine& engine, const Budget& budget) {
  DeviceCounters counters = engine.device().counters();
  std::int64_t decode_h2d = counters.h2d_bytes - stats.load_h2d_bytes - stats.prefill_h2d_bytes;
  std::string text;
  auto line = [&](const char* topic, const std::string& what) { text += fmt::format("{:<15}{}\n", topic, what); };
  std::string documents = fmt::format("{} answered, {} failed", stats.documents - stats.failed, stats.failed);
  if (stats.resumed > 0) documents += fmt::format("; {} more in earlier runs", stats.resumed);
  line("documents", documents);
  std::string prefill = fmt::format("{} tokens in {:.2f} s, {:.1f} tokens/s", with_commas(stats.prompt_tokens),
                                    stats.prefill_seconds, per_second(stats.prompt_tokens, stats.prefill_seconds));
  if (stats.shared_tokens > 0)
    prefill += fmt::format("; {} of them shared, computed once", with_commas(stats.shared_tokens));
  line("prefill", prefill);
  line("decode", fmt::format("{} tokens in {:.2f} s, {:.1f} tokens/s", with_commas(stats.decoded_tokens),
                             stats.decode_seconds, per_second(stats.decoded_tokens, stats.decode_seconds)));
  const std::int64_t tokens = stats.prompt_tokens + stats.decoded_tokens + std::ssize(stats.ttft);
  line("throughput", fmt::format("{} tokens, {:.1f} tokens/s, {:.1f} documents an hour", with_commas(tokens),
                                 per_second(tokens, stats.wall_seconds),
                                 3600 * per_second(stats.documents - stats.failed, stats.wall_seconds)));
  line("first token", percentiles(stats.ttft, 1, "s") + " from a document's turn on");
  line("later tokens", percentiles(stats.tpot, 1000, "ms") + " each");
  line("wall time",
       fmt::format("{:.2f} s: load {:.2f} s, prefill {:.2f} s, decode {:.2f} s, other {:.2f} s", stats.wall_seconds,
                   stats.load_seconds, stats.prefill_seconds, stats.decode_seconds,
                   stats.wall_seconds - stats.load_seconds - stats.prefill_seconds - stats.decode_seconds));
  line("streams busy", seconds_by_name(counters.busy_seconds, [](auto&) { return true; }));
  line("compute stalls", seconds_by_name(counters.stall_seconds, is_compute_wait));
  line("other waits", seconds_by_name(counters.stall_seconds, [](auto& name) { return !is_compute_wait(name); }));
  line("link", fmt::format("to the device {} ({} a decoded token, {}/s while decoding), to the host {}",
                           format_bytes(counters.h2d_bytes),
                           format_bytes(stats.decoded_tokens ? decode_h2d / stats.decoded_tokens : 0),
                           format_bytes(static_cast<std::int64_t>(per_second(decode_h2d, stats.decode_seconds))),
                           format_bytes(counters.d2h_bytes)));
  line("attention", describe_rows(engine.row_counts()));
  line("weights", describe_placement(engine.config(), engine.options()));
  line("kv cache", describe_streaming(engine.config(), engine.options(), budget));
  line("device memory", fmt::format("peak {} of {}, planned {}", format_bytes(engine.device().peak_bytes()),
                                    format_bytes(budget.device), format_bytes(engine.plan().device_bytes)));
  const std::int64_t program = budget.beside(engine.options().policy);
  line("host memory", fmt::format("planned {} and {} for the program, of {}; peak of the process {}{}",
                                  format_bytes(engine.plan().host_bytes), format_bytes(program),
                                  format_bytes(budget.host), format_bytes(peak_resident_bytes()),
                                  budget.together < Budget::kApart ? ", the CPU device's memory included" : ""));
  line("bound by", describe_bound(stats, counters, engine.options().max_sessions));
  return text;
}

}  // namespace longhaul
