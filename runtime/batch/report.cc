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

using Json = nlohmann::ordered_json;

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

constexpr std::array kPercents{50, 90, 99};

/// "p50 1.20 s, p90 2.10 s, p99 2.30 s"; of no values "none".
std::string percentiles(const std::vector<double>& values, double scale, const char* unit) {
  if (values.empty()) return "none";
  std::string text;
  for (const int p : kPercents)
    text += fmt::format("{}p{} {:.2f} {}", text.empty() ? "" : ", ", p, scale * percentile(values, p), unit);
  return text;
}

Json percentile_facts(const std::vector<double>& values) {
  if (values.empty()) return nullptr;
  Json facts;
  for (const int p : kPercents) facts[fmt::format("p{}", p)] = percentile(values, p);
  return facts;
}

Json maybe(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

/// ", 12 % of what the link can do"; nothing where that is not known.
std::string share_of_link(const std::optional<double>& share) {
  return share ? fmt::format(", {:.0f} % of what the link can do", 100 * *share) : std::string();
}

/// Bytes that the process may have at most, and has had. The CPU device's memory is the process's.
struct ProcessMemory {
  std::int64_t planned, peak;
  bool with_device;
};

ProcessMemory process_memory(const JobStats& stats, const Engine& engine, const Budget& budget) {
  const bool with_device = budget.together < Budget::kApart;
  const std::int64_t planned = engine.plan().host_bytes + budget.beside(engine.options().policy) +
                               (with_device ? engine.plan().device_bytes : 0);
  return {.planned = std::max(planned, stats.peak_before), .peak = peak_resident_bytes(), .with_device = with_device};
}

std::int64_t answered(const JobStats& stats) { return stats.documents - stats.failed; }
/// An answer's first token comes from its prefill.
std::int64_t all_tokens(const JobStats& stats) {
  return stats.prompt_tokens + stats.decoded_tokens + std::ssize(stats.ttft);
}

}  // namespace

std::optional<double> compute_stall_seconds(const DeviceCounters& counters) {
  if (counters.busy_seconds.empty()) return {};
  double seconds = 0;
  for (const auto& [name, stood] : counters.stall_seconds)
    if (is_compute_wait(name)) seconds += stood;
  return seconds;
}

LinkUse link_use(const JobStats& stats, const DeviceCounters& counters, const LinkRates& rates) {
  LinkUse use{.decode_h2d_bytes = counters.h2d_bytes - stats.load_h2d_bytes - stats.prefill_h2d_bytes};
  use.decode_h2d_rate = per_second(use.decode_h2d_bytes, stats.decode_seconds);
  const double work = stats.prefill_seconds + stats.decode_seconds;
  if (rates.h2d > 0) {
    use.decoding = use.decode_h2d_rate / rates.h2d;
    use.h2d = per_second(counters.h2d_bytes - stats.load_h2d_bytes, work) / rates.h2d;
  }
  if (rates.d2h > 0) use.d2h = per_second(counters.d2h_bytes, work) / rates.d2h;
  return use;
}

Bound find_bound(const JobStats& stats, const DeviceCounters& counters, std::int64_t sessions, const LinkUse& link) {
  constexpr double kMostStalled = 0.2, kMostUsed = 0.7;  // shares that make it the link
  const double work = stats.prefill_seconds + stats.decode_seconds;
  const auto stalled = compute_stall_seconds(counters);
  Bound bound{
      .resource = "unknown",
      .memory = sessions < stats.wanted_sessions,
      .words = "not known: this device measures no waits, and there is no profile of the link (longhaul doctor)"};
  if (stats.load_seconds > work) {
    bound.resource = "load";
    bound.words = "loading the model, which took longer than answering";
  } else if (stalled && work > 0) {
    const double share = *stalled / work;
    bound.resource = share > kMostStalled ? "link" : "compute";
    bound.words = fmt::format("{} {:.0f} % of the time at copies",
                              share > kMostStalled ? "the link: compute stood" : "compute; it stood", 100 * share);
  } else if (link.h2d || link.d2h) {
    const double used = std::max(link.h2d.value_or(0), link.d2h.value_or(0));
    bound.resource = used > kMostUsed ? "link" : "compute";
    bound.words = (used > kMostUsed ? "the link" : "compute") + share_of_link(used);
  }
  if (bound.memory)
    bound.words +=
        fmt::format("; memory: {} documents together, where {} were wanted", sessions, stats.wanted_sessions);
  return bound;
}

double percentile(const std::vector<double>& values, int percent) {
  const auto rank = static_cast<std::size_t>((percent * std::ssize(values) + 99) / 100);
  return values[rank - 1];
}

namespace {

std::string table_of(const JobStats& stats, const Engine& engine, const Budget& budget, const LinkUse& link,
                     const Bound& bound) {
  const DeviceCounters counters = engine.device().counters();
  std::string text;
  auto line = [&](const char* topic, const std::string& what) { text += fmt::format("{:<15}{}\n", topic, what); };
  std::string documents = fmt::format("{} answered, {} failed", answered(stats), stats.failed);
  if (stats.resumed > 0) documents += fmt::format("; {} more in earlier runs", stats.resumed);
  line("documents", documents);
  std::string prefill = fmt::format("{} tokens in {:.2f} s, {:.1f} tokens/s", with_commas(stats.prompt_tokens),
                                    stats.prefill_seconds, per_second(stats.prompt_tokens, stats.prefill_seconds));
  if (stats.shared_tokens > 0)
    prefill += fmt::format("; {} of them shared, computed once", with_commas(stats.shared_tokens));
  line("prefill", prefill);
  line("decode", fmt::format("{} tokens in {:.2f} s, {:.1f} tokens/s", with_commas(stats.decoded_tokens),
                             stats.decode_seconds, per_second(stats.decoded_tokens, stats.decode_seconds)));
  line("throughput", fmt::format("{} tokens, {:.1f} tokens/s, {:.1f} documents an hour", with_commas(all_tokens(stats)),
                                 per_second(all_tokens(stats), stats.wall_seconds),
                                 3600 * per_second(answered(stats), stats.wall_seconds)));
  line("first token", percentiles(stats.ttft, 1, "s") + " from a document's turn on");
  line("later tokens", percentiles(stats.tpot, 1000, "ms") + " each, by document");
  line("one token", percentiles(stats.waits, 1000, "ms") + " after the one before");
  line("wall time",
       fmt::format("{:.2f} s: load {:.2f} s, prefill {:.2f} s, decode {:.2f} s, other {:.2f} s", stats.wall_seconds,
                   stats.load_seconds, stats.prefill_seconds, stats.decode_seconds,
                   stats.wall_seconds - stats.load_seconds - stats.prefill_seconds - stats.decode_seconds));
  line("streams busy", seconds_by_name(counters.busy_seconds, [](auto&) { return true; }));
  line("compute stalls", seconds_by_name(counters.stall_seconds, is_compute_wait));
  line("other waits", seconds_by_name(counters.stall_seconds, [](auto& name) { return !is_compute_wait(name); }));
  line("link", fmt::format("to the device {}{} ({} a decoded token, {}/s while decoding{}), to the host {}{}",
                           format_bytes(counters.h2d_bytes), share_of_link(link.h2d),
                           format_bytes(stats.decoded_tokens ? link.decode_h2d_bytes / stats.decoded_tokens : 0),
                           format_bytes(static_cast<std::int64_t>(link.decode_h2d_rate)), share_of_link(link.decoding),
                           format_bytes(counters.d2h_bytes), share_of_link(link.d2h)));
  line("attention", describe_rows(engine.row_counts()));
  if (const auto hits = engine.row_counts().hit_rate())
    line("hit rate", fmt::format("{:.1f} % of the selected rows were on the device already", 100 * *hits));
  line("weights", describe_placement(engine.config(), engine.options()));
  line("kv cache", describe_streaming(engine.config(), engine.options(), budget));
  line("device memory", fmt::format("planned {}{}, of {}; peak {}", format_bytes(engine.plan().device_bytes),
                                    budget.libraries > 0 ? fmt::format(" and {} for CUDA and its libraries",
                                                                       format_bytes(budget.libraries))
                                                         : std::string(),
                                    format_bytes(budget.device), format_bytes(engine.device().peak_bytes())));
  const ProcessMemory process = process_memory(stats, engine, budget);
  line("host memory",
       fmt::format("planned {} and {} for the program, of {}; peak of the process {}, planned {}{}",
                   format_bytes(engine.plan().host_bytes), format_bytes(budget.beside(engine.options().policy)),
                   format_bytes(budget.host), format_bytes(process.peak), format_bytes(process.planned),
                   process.with_device ? ", the CPU device's memory included" : ""));
  line("bound by", bound.words);
  return text;
}

Json facts_of(const JobStats& stats, const Engine& engine, const Budget& budget, const LinkUse& link,
              const LinkRates& rates, const Bound& bound) {
  const DeviceCounters counters = engine.device().counters();
  const ProcessMemory process = process_memory(stats, engine, budget);
  const RowCounts rows = engine.row_counts();
  auto rate = [](double bytes) { return bytes > 0 ? Json(bytes) : Json(); };
  return {{"answered_now", answered(stats)},
          {"failed_now", stats.failed},
          {"prompt_tokens", stats.prompt_tokens},
          {"shared_tokens", stats.shared_tokens},
          {"decoded_tokens", stats.decoded_tokens},
          {"tokens_per_second", per_second(all_tokens(stats), stats.wall_seconds)},
          {"prefill_tokens_per_second", per_second(stats.prompt_tokens, stats.prefill_seconds)},
          {"decode_tokens_per_second", per_second(stats.decoded_tokens, stats.decode_seconds)},
          {"documents_per_hour", 3600 * per_second(answered(stats), stats.wall_seconds)},
          {"ttft_seconds", percentile_facts(stats.ttft)},
          {"tpot_seconds", percentile_facts(stats.tpot)},
          {"token_wait_seconds", percentile_facts(stats.waits)},
          {"seconds",
           {{"wall", stats.wall_seconds},
            {"load", stats.load_seconds},
            {"prefill", stats.prefill_seconds},
            {"decode", stats.decode_seconds}}},
          {"link",
           {{"h2d_bytes", counters.h2d_bytes},
            {"d2h_bytes", counters.d2h_bytes},
            {"decode_h2d_bytes", link.decode_h2d_bytes},
            {"h2d_bytes_per_second", rate(rates.h2d)},
            {"d2h_bytes_per_second", rate(rates.d2h)},
            {"h2d_utilisation", maybe(link.h2d)},
            {"d2h_utilisation", maybe(link.d2h)},
            {"decode_utilisation", maybe(link.decoding)}}},
          {"attended_share",
           rows.all > 0 ? Json(static_cast<double>(rows.attended) / static_cast<double>(rows.all)) : Json()},
          {"hit_rate", maybe(rows.hit_rate())},
          {"device_memory",
           {{"planned", engine.plan().device_bytes},
            {"libraries", budget.libraries},
            {"peak", engine.device().peak_bytes()},
            {"budget", budget.device}}},
          {"host_memory",
           {{"planned", engine.plan().host_bytes},
            {"program", budget.beside(engine.options().policy)},
            {"budget", budget.host},
            {"process_planned", process.planned},
            {"process_peak", process.peak},
            {"with_device", process.with_device}}},
          {"sessions", engine.options().max_sessions},
          {"bound_by", bound.resource},
          {"bound_by_memory", bound.memory},
          {"bound_in_words", bound.words}};
}

}  // namespace

JobReport report(const JobStats& stats, const Engine& engine, const Budget& budget, const LinkRates& rates) {
  JobStats sorted = stats;
  std::ranges::sort(sorted.ttft);
  std::ranges::sort(sorted.tpot);
  std::ranges::sort(sorted.waits);
  const DeviceCounters counters = engine.device().counters();
  const LinkUse link = link_use(sorted, counters, rates);
  const Bound bound = find_bound(sorted, counters, engine.options().max_sessions, link);
  return {.table = table_of(sorted, engine, budget, link, bound),
          .facts = facts_of(sorted, engine, budget, link, rates, bound)};
}

}  // namespace longhaul
