#include "runtime/engine/timed_sessions.h"

#include <numeric>
#include <random>

#include "kernels/base/clock.h"
#include "kernels/base/error.h"

namespace longhaul {
namespace {

RowCounts difference(const RowCounts& after, const RowCounts& before) {
  return {.attended = after.attended - before.attended,
          .all = after.all - before.all,
          .listed = after.listed - before.listed,
          .cache_hits = after.cache_hits - before.cache_hits,
          .staged_hits = after.staged_hits - before.staged_hits,
          .missed = after.missed - before.missed};
}

}  // namespace

std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab, std::int64_t seed) {
  std::mt19937_64 random(static_cast<std::uint64_t>(seed));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocab));
  return ids;
}

double Timed::total() const { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }

TimedSessions::TimedSessions(Engine& engine, std::int64_t rows, std::int64_t answer) : engine_(engine) {
  for (std::int64_t slot = 0; slot < engine.options().max_sessions; ++slot)
    sessions_.emplace_back(slot, random_tokens(rows, engine.config().vocab, slot), SampleParams{}, answer,
                           std::vector<std::int32_t>{});
}

void TimedSessions::check_finite() const {
  for (const Session& session : sessions_)
    if (session.finish() == Finish::not_finite) throw UserError(Exit::bad_model, "{}", not_finite_message(session));
}

void TimedSessions::fill() {
  for (Session& session : sessions_) engine_.fill(session);
}

Timed TimedSessions::prefill() {
  Timed timed{.before = engine_.device().counters()};
  for (Session& session : sessions_) {
    const auto start = std::chrono::steady_clock::now();
    engine_.prefill(session);
    timed.seconds.push_back(seconds_since(start));
  }
  check_finite();
  timed.after = engine_.device().counters();
  return timed;
}

Timed TimedSessions::step(int warm, int timed) {
  std::vector<Session*> all;
  for (Session& session : sessions_) all.push_back(&session);
  auto step = [&] {
    engine_.step(all);
    check_finite();
  };
  for (int i = 0; i < warm; ++i) step();
  const RowCounts rows = engine_.row_counts();
  Timed result{.before = engine_.device().counters()};
  for (int i = 0; i < timed; ++i) {
    const auto start = std::chrono::steady_clock::now();
    step();
    result.seconds.push_back(seconds_since(start));
  }
  result.after = engine_.device().counters();
  result.rows = difference(engine_.row_counts(), rows);
  return result;
}

}  // namespace longhaul
