#include "runtime/engine/bench_case.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/base/error.h"
#include "kernels/base/host_memory.h"
#include "runtime/batch/report.h"
#include "runtime/engine/timed_sessions.h"

namespace longhaul {
namespace {

constexpr int kWarm = 3;  // enqueued; recorded; replayed: from then on steps are alike

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double quantile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(std::llround(share * static_cast<double>(values.size() - 1)))];
}

std::int64_t kv_bytes(const std::vector<Arena::Item>& items) {
  std::int64_t bytes = 0;
  for (const Arena::Item& item : items)
    if (item.name.starts_with("kv ")) bytes += item.bytes;
  return bytes;
}

double fetch_seconds(const DeviceCounters& counters) {
  const auto fetch = counters.busy_seconds.find("fetch");
  return fetch == counters.busy_seconds.end() ? 0 : fetch->second;
}

/// Whether steps look ahead is found out before anything is timed. A case of too few rows for that is timed as it
/// comes.
void settle(Engine& engine, const BenchCase& what) {
  const std::int64_t steps = engine.steps_to_settle(engine.options().max_sessions);
  if (steps == 0 || what.rows() < steps + 2) return;
  TimedSessions filled(engine, what.rows() - steps - 1, steps + 1);
  filled.fill();
  filled.step(static_cast<int>(steps), 0);
}

/// Steps enqueued one by one, with what streams take and stand measured: for devices that do not always do that.
Timed measured_steps(Engine& engine, const BenchCase& what) {
  constexpr std::int64_t kEnough = 16;
  TimedSessions filled(engine, std::max<std::int64_t>(what.depth - kWarm, 1), kWarm + what.generated + 1);
  filled.fill();
  engine.set_step_tap([](const StepProbe&, std::span<Session* const>) {});
  engine.device().measure_streams(true);
  const Timed timed = filled.step(kWarm, static_cast<int>(std::min(what.generated, kEnough)));
  engine.device().measure_streams(false);
  engine.set_step_tap({});
  return timed;
}

/// Sums over the timed parts of all repetitions.
struct Sums {
  std::int64_t h2d_bytes = 0;
  double seconds = 0, fetching = 0;
  std::optional<double> stalled;
  RowCounts rows;

  void add(const Timed& timed) {
    h2d_bytes += timed.h2d_bytes();
    seconds += timed.total();
    fetching += fetch_seconds(timed.after) - fetch_seconds(timed.before);
    if (const auto stood = compute_stall_seconds(timed.after))
      stalled = stalled.value_or(0) + *stood - compute_stall_seconds(timed.before).value_or(0);
    rows.listed += timed.rows.listed;
    rows.staged_hits += timed.rows.staged_hits;
    rows.missed += timed.rows.missed;
  }
  /// `share`: of a repetition, what the sums are of.
  void tell_stalls(double share, BenchResult& result) const {
    if (stalled) result.stall_ms = *stalled * 1e3 / share;
    if (stalled && fetching > 0) result.overlap_pct = 100 * std::clamp(1 - *stalled / fetching, 0.0, 1.0);
  }
  void tell(int repetitions, BenchResult& result) const {
    tell_stalls(repetitions, result);
    result.h2d_bytes = h2d_bytes / repetitions;
    result.h2d_gibps = static_cast<double>(h2d_bytes) / 0x1p30 / seconds;
    result.hit_rate = rows.hit_rate();
  }
};

}  // namespace

std::string BenchCase::label() const {
  if (generated == 0) return fmt::format("pp{}", prompt);
  return depth == 0 ? fmt::format("tg{}", generated) : fmt::format("tg{} @ d{}", generated, depth);
}

std::int64_t BenchCase::rows() const {
  return generated == 0 ? prompt + 1 : std::max<std::int64_t>(depth - kWarm, 1) + kWarm + generated + 1;
}

double BenchResult::mean() const { return mean_of(tokens_per_second); }

double BenchResult::deviation() const {
  if (tokens_per_second.size() < 2) return 0;
  const double center = mean();
  double squares = 0;
  for (const double x : tokens_per_second) squares += (x - center) * (x - center);
  return std::sqrt(squares / static_cast<double>(tokens_per_second.size() - 1));
}

BenchResult run_case(Engine& engine, const BenchCase& what, int repetitions) {
  const auto sessions = static_cast<double>(engine.options().max_sessions);
  BenchResult result;
  Sums sums;
  std::vector<double> prefills, steps;
  if (what.generated == 0)  // libraries choose their kernels at the first call
    TimedSessions(engine, std::min(what.prompt, engine.options().prefill_chunk), 1).prefill();
  else settle(engine, what);
  engine.device().measure_streams(what.generated == 0);  // a prefill's pieces are large: it hardly notices
  for (int i = 0; i < repetitions; ++i) {
    if (what.generated == 0) {
      const Timed timed = TimedSessions(engine, what.prompt, 1).prefill();
      sums.add(timed);
      prefills.insert(prefills.end(), timed.seconds.begin(), timed.seconds.end());
      result.tokens_per_second.push_back(sessions * static_cast<double>(what.prompt) / timed.total());
    } else {
      TimedSessions filled(engine, std::max<std::int64_t>(what.depth - kWarm, 1), kWarm + what.generated + 1);
      filled.fill();
      const Timed timed = filled.step(kWarm, static_cast<int>(what.generated));
      sums.add(timed);
      steps.insert(steps.end(), timed.seconds.begin(), timed.seconds.end());
      result.tokens_per_second.push_back(sessions * static_cast<double>(what.generated) / timed.total());
    }
  }
  engine.device().measure_streams(false);
  sums.tell(repetitions, result);
  if (!steps.empty() && !sums.stalled) {
    Sums measured;
    const Timed timed = measured_steps(engine, what);
    measured.add(timed);
    measured.tell_stalls(static_cast<double>(timed.seconds.size()) / static_cast<double>(what.generated), result);
  }
  if (!prefills.empty()) result.ttft_ms = mean_of(prefills) * 1e3;
  if (!steps.empty()) {
    result.tpot_ms = mean_of(steps) * 1e3;
    result.itl_p50_ms = quantile(steps, 0.5) * 1e3;
    result.itl_p99_ms = quantile(steps, 0.99) * 1e3;
  }
  result.kv_device_bytes = kv_bytes(engine.plan().device);
  result.kv_host_bytes = kv_bytes(engine.plan().host);
  result.peak_device_bytes = engine.device().peak_bytes();
  result.peak_host_bytes = peak_resident_bytes();
  result.pin_ms = engine.pin_seconds() * 1e3;
  return result;
}

}  // namespace longhaul
