#include "runtime/engine/engine.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <utility>

#include "kernels/base/bytes.h"
#include "runtime/engine/engine_impl.h"
#include "runtime/plan/step_bytes.h"

namespace longhaul {

void Engine::Impl::fill(Session& session) {
  const std::int64_t n = session.prompt_size();
  check(session.rows() == 0 && session.slot() < options.max_sessions && n <= options.max_len, "a slot that exists");
  check(!prefilling, "no prefill is under way");
  cache.fill({session.slot(), n, session.most_tokens()}, send_prefill_frequencies(session, n), memory.act.qkv,
             memory.act.chunk);
  send_seen(session, n);
  finish_compute();
  session.accept(session.tokens().back(), n);
}

void Engine::Impl::add_moments(std::int64_t l, std::int64_t tokens) {
  const std::int64_t sums = config.kv_heads * moment_doubles(config.head_dim);
  compute->launch(MomentsArgs{.qkv = memory.act.qkv,
                              .sums = memory.probes.moments + l * sums,
                              .act = memory.act.act,
                              .tokens = tokens,
                              .q_heads = config.q_heads,
                              .kv_heads = config.kv_heads,
                              .head_dim = config.head_dim});
}

void Engine::Impl::adopt(Session& session, Impl& from, const Session& source) {
  const std::int64_t n = session.prompt_size();
  check(session.rows() == 0 && session.slot() < options.max_sessions && n <= options.max_len, "a slot that exists");
  check(
      source.rows() >= n && std::equal(session.tokens().begin(), session.tokens().begin() + n, source.tokens().begin()),
      "adopt: the sessions have the same prompt");
  check(config.rope.type != RopeType::dynamic, "adopt: a rope that changes with the length is not handed on");
  auto table = [&](const Session& of) { return rope_frequencies(config.rope, config.head_dim, rope_length(of, n)); };
  check(table(session) == table(source) && temperature(session) == temperature(source),
        "adopt: the sessions are turned alike");
  check(!prefilling, "no prefill is under way");
  from.cache.wait_stored(from.device, source.slot());
  cache.adopt(session.slot(), from.memory.kv, source.slot(), n, send_prefill_frequencies(session, n));
  send_seen(session, n);
  finish_compute();
  session.accept(source.tokens()[static_cast<std::size_t>(n)], n);
}

void Engine::Impl::rewind(Session& session, std::int64_t rows, std::int32_t next) {
  check(memory.kv.layout.all_resident() && (memory.kv.layout.window_rows == 0 || options.probes.rewinds),
        "rewind: every row is on the device");
  check(options.policy.select != Select::heavy || rows == session.prompt_size(),
        "rewind: a heavy-hitter policy goes back to the prompt's end only");
  session.rewind(rows, next);
  cache.rewind(session.slot());
  if (!session.penalised()) return;
  send_seen(session, rows);
  finish_compute();  // the session may be taken back again before it steps
}

void Engine::Impl::step(std::span<Session* const> sessions) {
  const Activations& act = memory.act;
  const auto count = static_cast<std::int64_t>(sessions.size());
  check(count >= 1 && count <= options.max_sessions, "a step has between one and max_sessions sessions");
  const bool ahead = look_ahead.looks_ahead(count);
  if (prefilling && look_ahead.is_tried(count)) cache.settle(), finish_compute();  // nothing but the step is timed
  const auto begin = std::chrono::steady_clock::now();
  std::vector<Span> spans;
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < count; ++i) {
    const Session& session = *sessions[static_cast<std::size_t>(i)];
    check(!session.done() && session.rows() >= 1, "only a prefilled session that is not done takes a step");
    act.host_step_input.ids[i] = session.tokens().back();
    act.host_step_input.positions[i] = static_cast<std::int32_t>(session.rows());
    act.host_params[i] = session.next_sampling();
    if (act.tempered()) act.host_temperatures[i] = temperature(session);
    spans.push_back({.slot = session.slot(), .pos = session.rows(), .tokens = 1, .row = i});
    const std::int64_t length = session.rows() + 1;
    lengths.push_back(rope_length(session, length));
    for (const LayerPlan& plan : memory.kv.plan) {
      rows.attended += attended_rows(plan, options.policy, memory.kv.shape, length) * config.kv_heads;
      rows.all += length * config.kv_heads;
    }
  }
  if (prefilling) prefilling->stepped = true;  // a step that is replayed tells the weights' stream nothing
  if (length_dependent_rope()) send_frequencies(0, lengths);
  if (act.tempered()) send(act.temperatures, act.host_temperatures, count);
  send_input(act.step_input, act.host_step_input, count);
  embed(act.step_input.ids, count, act.step_hidden);
  KvPass& kv = cache.begin_decode(spans, ahead);
  auto layers = [&] {
    weight_stream.begin(1);
    for (std::int64_t l = 0; l < config.layers; ++l) {
      kv.begin_layer(l);
      recorder.before_layer(l, count);
      layer.run(*compute, l,
                {.hidden = act.step_hidden,
                 .positions = act.step_input.positions,
                 .tokens = count,
                 .spans = spans,
                 .inv_freq = act.inv_freq,
                 .freq_stride = length_dependent_rope() ? config.head_dim / 2 : 0,
                 .temperatures = act.tempered() ? act.temperatures : nullptr},
                kv);
      recorder.after_layer(l, count);
      kv.end_layer(l);
    }
  };
  if (tap || step_tap) {
    layers();
    kv.end();
    recorder.end(count);
    tap ? tap_rows(act.step_hidden, count) : layer.head(*compute, act.step_hidden, count);
    sample(0, count);
  } else {
    steps.run(count, ahead, [&] {
      layers();
      layer.head(*compute, act.step_hidden, count);
      sample(0, count);
    });
    kv.end();
  }
  wait_for_tokens();
  look_ahead.took(count, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  for (std::int64_t i = 0; i < count; ++i) {
    Session& session = *sessions[static_cast<std::size_t>(i)];
    session.accept(act.host_sampled[i], session.rows() + 1);
  }
  if (step_tap) step_tap(recorder.view(), sessions);
}

Engine::Engine(Device& device, const ModelConfig& config, const Checkpoint& weights, const EngineOptions& options,
               const PinReport& pinning, const LoadReport& loading)
    : impl_(std::make_unique<Impl>(device, config, &weights, options, pinning, loading)) {}
Engine::Engine(Device& device, const ModelConfig& config, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(device, config, nullptr, options)) {}
Engine::~Engine() = default;

std::int64_t Engine::shared_rows(std::span<Session* const> sessions) const { return impl_->shared_rows(sessions); }
void Engine::prefill(Session& session, const PrefillReport& report) { prefill(std::array{&session}, report); }
void Engine::prefill(std::span<Session* const> sessions, const PrefillReport& report) {
  impl_->begin_prefill(sessions);
  impl_->advance_prefill(std::numeric_limits<double>::infinity(), report);
}
void Engine::begin_prefill(std::span<Session* const> sessions) { impl_->begin_prefill(sessions); }
PrefillProgress Engine::advance_prefill(double work, const PrefillReport& report) {
  return impl_->advance_prefill(work, report);
}
std::int64_t Engine::steps_to_settle(std::int64_t sessions) const {
  return impl_->look_ahead.steps_to_settle(sessions);
}
bool Engine::looks_ahead(std::int64_t sessions) const { return impl_->look_ahead.looks_ahead(sessions); }
bool Engine::prefilling() const { return impl_->prefilling != nullptr; }
bool Engine::has_room(std::span<const std::int64_t> most) const { return impl_->cache.has_room(most); }
void Engine::release(const Session& session) { impl_->cache.release(session.slot()); }
void Engine::fill(Session& session) { impl_->fill(session); }
std::int64_t Engine::layers_not_stored(const Session& session) const {
  return impl_->cache.layers_not_stored(impl_->device, session.slot());
}
void Engine::step(std::span<Session* const> sessions) { impl_->step(sessions); }
void Engine::adopt(Session& session, Engine& from, const Session& source) {
  impl_->adopt(session, *from.impl_, source);
}
void Engine::rewind(Session& session, std::int64_t rows, std::int32_t next) { impl_->rewind(session, rows, next); }
RowCounts Engine::row_counts() const {
  RowCounts rows = impl_->rows;
  if (impl_->memory.kv.layout.list_rows == 0) return rows;
  std::vector<std::int64_t> tally(static_cast<std::size_t>(impl_->config.layers * kTally));
  impl_->compute->copy({.dst = tally.data(),
                        .src = impl_->memory.kv.selection.tally(0),
                        .width = std::ssize(tally) * 8,
                        .kind = CopyKind::device_to_host});
  impl_->finish_compute();
  for (std::size_t l = 0; l < tally.size(); l += kTally) {
    rows.listed += tally[l + kAttended];
    rows.cache_hits += tally[l + kCacheHits];
    rows.staged_hits += tally[l + kStagedHits];
    rows.missed += tally[l + kMissed];
  }
  return rows;
}
std::vector<double> Engine::moments() const {
  const ModelConfig& c = impl_->config;
  check(impl_->options.probes.moments, "the engine adds up moments");
  std::vector<double> sums(static_cast<std::size_t>(c.layers * c.kv_heads * moment_doubles(c.head_dim)));
  impl_->compute->copy({.dst = sums.data(),
                        .src = impl_->memory.probes.moments,
                        .width = std::ssize(sums) * 8,
                        .kind = CopyKind::device_to_host});
  impl_->finish_compute();
  return sums;
}
void Engine::set_logits_tap(LogitsTap tap) { impl_->tap = std::move(tap); }
void Engine::set_step_tap(StepTap tap) { impl_->step_tap = std::move(tap); }
const EngineOptions& Engine::options() const { return impl_->options; }
const MemoryPlan& Engine::plan() const { return impl_->plan; }
const ModelConfig& Engine::config() const { return impl_->config; }
Device& Engine::device() const { return impl_->device; }
double Engine::pin_seconds() const { return impl_->host_memory.seconds(); }

}  // namespace longhaul
