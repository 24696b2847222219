#include "runtime/engine.h"

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "offload/edges.h"
#include "offload/kv_cache.h"
#include "runtime/engine_memory.h"
#include "runtime/engine_setup.h"
#include "runtime/hidden_states.h"
#include "runtime/layer.h"
#include "runtime/pinned_memory.h"
#include "runtime/prefill_work.h"
#include "runtime/recorded_steps.h"
#include "runtime/step_bytes.h"
#include "runtime/step_recorder.h"

namespace longhaul {
struct Engine::Impl {
  /// `file` may be null: random weights.
  Impl(Device& device, const ModelConfig& config, const Checkpoint* file, const EngineOptions& options,
       const PinReport& pinning = {}, const LoadReport& loading = {})
      : device(device),
        config(config),
        options(options),
        plan(plan_memory(config, options)),
        device_memory(device.allocate(plan.device_bytes, "device memory")),
        host_memory(device, plan.host_bytes, pinning),
        device_arena(device_memory.data(), plan.device_bytes, "device arena"),
        host_arena(host_memory.data(), plan.host_bytes, "host arena"),
        memory(this->config, this->options, device_arena, host_arena),
        compute(device.make_stream("compute")),
        fetch(device.make_stream("fetch")),
        store(device.make_stream("store")),
        token_ready(device.make_event()),
        cache(device, {*compute, *fetch, *store}, memory.kv),
        weight_stream(device, *compute, memory.weights),
        hidden(device, {*compute, *fetch, *store}, this->config, memory.act),
        layer(this->config, memory.kv.shape, memory.weights, weight_stream, memory.act),
        recorder(this->config, this->options, memory, *compute),
        steps(device, streams(), options.replay_steps && memory.kv.steps_alike()) {
    check(options.max_sessions >= 1 && options.max_sessions <= kDecodeTokens,
          "at most kDecodeTokens sessions together");
    check(options.prefill_chunk >= 1, "a prefill goes on by at least one token");
    check(device_arena.used() == plan.device_bytes && host_arena.used() == plan.host_bytes, "the plan is the use");
    for (auto& event : paced) event = device.make_event();
    if (file != nullptr) memory.weights.load(device, *fetch, *file, loading);
    set_up(device, *compute, config, options, memory, /*random_weights=*/file == nullptr);
    if (!length_dependent_rope()) send_frequencies(0, 1, {});
  }

  std::vector<Stream*> streams() const {
    std::vector<Stream*> all{compute.get(), fetch.get(), store.get()};
    if (weight_stream.stream() != nullptr) all.push_back(weight_stream.stream());
    return all;
  }

  bool length_dependent_rope() const {
    return config.rope.type == RopeType::dynamic || config.rope.type == RopeType::longrope;
  }
  /// What a session's rope table depends on once it has `rows` rows. Long factors are for sessions that may outgrow the
  /// trained length: so that all keys are turned alike, whatever the answer's length turns out to be.
  std::int64_t rope_length(const Session& session, std::int64_t rows) const {
    return config.rope.type == RopeType::longrope ? session.most_tokens() : rows;
  }

  /// Rope tables for rows of these lengths (an empty list: one table, lengths do not matter).
  void send_frequencies(std::int64_t first, std::int64_t rows, std::span<const std::int64_t> lengths) {
    const std::int64_t half = config.head_dim / 2;
    for (std::int64_t i = first; i < first + rows; ++i) {
      auto table =
          rope_frequencies(config.rope, config.head_dim, lengths.empty() ? 0 : lengths[static_cast<std::size_t>(i)]);
      std::ranges::copy(table, memory.act.host_inv_freq + i * half);
    }
    send(memory.act.inv_freq + first * half, memory.act.host_inv_freq + first * half, rows * half);
  }

  template <class T>
  void send(T* to, const T* from, std::int64_t count) {
    compute->copy({.dst = to,
                   .src = from,
                   .width = count * static_cast<std::int64_t>(sizeof(T)),
                   .kind = CopyKind::host_to_device});
  }

  /// Waits for all that was enqueued on compute; outside of steps.
  void finish_compute() {
    compute->record(*token_ready);
    device.host_wait(*token_ready, {"compute_finished"});
  }

  /// Ids and positions of `rows` rows.
  void send_input(std::int64_t rows) {
    const Activations& act = memory.act;
    send(act.input.ids, act.host_input.ids, rows);
    send(act.input.positions, act.host_input.positions, rows);
  }

  /// Embeds `rows` rows of what was sent, from row `first` on.
  void embed(std::int64_t first, std::int64_t rows, std::byte* out) {
    const Activations& act = memory.act;
    compute->launch(EmbedArgs{.ids = act.input.ids + first,
                              .table = memory.weights.embedding(),
                              .out = out,
                              .act = act.act,
                              .tokens = rows,
                              .hidden = config.hidden,
                              .vocab = config.vocab});
  }

  /// Samples the `rows` rows of logits and brings the tokens to the host.
  void sample(std::int64_t rows) {
    const Activations& act = memory.act;
    send(act.params, act.host_params, rows);
    compute->launch(SampleArgs{
        .logits = act.logits, .params = act.params, .out = act.sampled, .tokens = rows, .vocab = config.vocab});
    compute->copy({.dst = act.host_sampled, .src = act.sampled, .width = rows * 4, .kind = CopyKind::device_to_host});
  }

  /// The one host wait of a step.
  void wait_for_tokens() {
    compute->record(*token_ready);
    device.host_wait(*token_ready, edge::kTokenReady);
  }

  /// Brings the logits of `rows` rows of hidden states to the host, in groups that fit the logits buffer.
  void tap_rows(const std::byte* states, std::int64_t rows) {
    const std::int64_t row = config.hidden * size_of(memory.act.act);
    const std::int64_t group = std::min(options.max_sessions, memory.act.chunk);
    for (std::int64_t done = 0; done < rows; done += group) {
      const std::int64_t n = std::min(group, rows - done);
      layer.head(*compute, states + done * row, n);
      tapped.resize(static_cast<std::size_t>(n * config.vocab));
      compute->copy({.dst = tapped.data(),
                     .src = memory.act.logits,
                     .width = n * config.vocab * 4,
                     .kind = CopyKind::device_to_host});
      compute->record(*token_ready);
      device.host_wait(*token_ready, {"logits_tapped"});
      tap(n, tapped.data());
    }
  }

  void prefill(Session& session, const PrefillReport& report);
  void fill(Session& session);
  void add_moments(std::int64_t layer, std::int64_t tokens);
  void adopt(Session& session, Impl& from, const Session& source);
  void rewind(Session& session, std::int64_t rows, std::int32_t next);
  void step(std::span<Session* const> sessions);

  static constexpr std::int64_t kPaced = 8;  // chunks enqueued ahead of the device in prefill

  Device& device;
  ModelConfig config;
  EngineOptions options;
  MemoryPlan plan;
  Buffer device_memory;
  PinnedMemory host_memory;
  Arena device_arena, host_arena;
  EngineMemory memory;
  std::unique_ptr<Stream> compute, fetch, store;
  std::unique_ptr<Event> token_ready;
  std::array<std::unique_ptr<Event>, kPaced> paced;
  KvCache cache;
  WeightStream weight_stream;
  HiddenStates hidden;
  Layer layer;
  StepRecorder recorder;
  LogitsTap tap;
  StepTap step_tap;
  std::vector<float> tapped;
  RecordedSteps steps;
  RowCounts rows;  // what the host knows of them
};

void Engine::Impl::prefill(Session& session, const PrefillReport& report) {
  const Activations& act = memory.act;
  const std::int64_t n = session.prompt_size();
  check(session.rows() == 0 && session.slot() < options.max_sessions, "a fresh session in a slot that exists");
  check(n <= options.max_len, "the prompt fits the plan");
  for (std::int64_t i = 0; i < n; ++i) {
    act.host_input.ids[i] = session.tokens()[static_cast<std::size_t>(i)];
    act.host_input.positions[i] = static_cast<std::int32_t>(i);
  }
  if (length_dependent_rope()) send_frequencies(0, 1, std::array{rope_length(session, n)});
  send_input(n);

  // Not act.chunk: how a prompt is cut must not depend on how many sessions decode together.
  const std::int64_t chunk = options.prefill_chunk;
  double total = 0, done = 0;
  for (std::int64_t l = 0; l < config.layers; ++l)
    for (std::int64_t pos = 0; pos < n; pos += chunk) total += chunk_work(config, l, pos, std::min(chunk, n - pos));
  std::array<double, kPaced> work{};
  std::int64_t enqueued = 0;
  auto pace = [&](std::int64_t index) {  // wait for a chunk enqueued kPaced ago
    device.host_wait(*paced[index % kPaced], edge::kPrefillPaced);
    done += std::exchange(work[index % kPaced], 0);
    if (report && done > 0) report({done, total});
  };

  KvPass& kv = cache.begin_prefill(session.slot(), n, act.inv_freq);
  weight_stream.begin(ceil_div(n, chunk));
  hidden.begin(ceil_div(n, chunk));
  const std::byte* last = nullptr;  // the last row's hidden state
  for (std::int64_t l = 0; l < config.layers; ++l) {
    kv.begin_layer(l);
    for (std::int64_t pos = 0; pos < n; pos += chunk, ++enqueued) {
      const Span span{.slot = session.slot(), .pos = pos, .tokens = std::min(chunk, n - pos), .row = pos};
      pace(enqueued);
      std::byte* states = hidden.arrive(l, pos, span.tokens);
      if (l == 0) embed(pos, span.tokens, states);
      layer.run(*compute, l,
                {.hidden = states,
                 .positions = act.input.positions + pos,
                 .tokens = span.tokens,
                 .spans = {&span, 1},
                 .own_frequencies = false},
                kv);
      if (options.probes.moments) add_moments(l, span.tokens);
      if (tap && l + 1 == config.layers) tap_rows(states, span.tokens);
      hidden.leave(l, pos, span.tokens);
      last = states + (span.tokens - 1) * config.hidden * size_of(act.act);
      compute->record(*paced[enqueued % kPaced]);
      work[enqueued % kPaced] = chunk_work(config, l, pos, span.tokens);
    }
    kv.end_layer(l);
  }
  kv.end();
  for (std::int64_t i = 0; i < kPaced; ++i) pace(enqueued + i);

  layer.head(*compute, last, 1);
  act.host_params[0] = session.next_sampling();
  sample(1);
  wait_for_tokens();
  session.accept(act.host_sampled[0], n);
}

void Engine::Impl::fill(Session& session) {
  const std::int64_t n = session.prompt_size();
  check(session.rows() == 0 && session.slot() < options.max_sessions && n <= options.max_len, "a slot that exists");
  if (length_dependent_rope()) send_frequencies(0, 1, std::array{rope_length(session, n)});
  cache.fill(session.slot(), n, memory.act.inv_freq, memory.act.qkv, memory.act.chunk);
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
  check(table(session) == table(source), "adopt: the sessions are turned alike");
  if (length_dependent_rope()) send_frequencies(0, 1, std::array{rope_length(session, n)});
  cache.adopt(session.slot(), from.memory.kv, source.slot(), n, memory.act.inv_freq);
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
}

void Engine::Impl::step(std::span<Session* const> sessions) {
  const Activations& act = memory.act;
  const auto count = static_cast<std::int64_t>(sessions.size());
  check(count >= 1 && count <= options.max_sessions, "a step has between one and max_sessions sessions");
  std::vector<Span> spans;
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < count; ++i) {
    const Session& session = *sessions[static_cast<std::size_t>(i)];
    check(!session.done() && session.rows() >= 1, "only a prefilled session that is not done takes a step");
    act.host_input.ids[i] = session.tokens().back();
    act.host_input.positions[i] = static_cast<std::int32_t>(session.rows());
    act.host_params[i] = session.next_sampling();
    spans.push_back({.slot = session.slot(), .pos = session.rows(), .tokens = 1, .row = i});
    const std::int64_t length = session.rows() + 1;
    lengths.push_back(rope_length(session, length));
    for (const LayerPlan& plan : memory.kv.plan) {
      rows.attended += attended_rows(plan, options.policy, memory.kv.shape, length) * config.kv_heads;
      rows.all += length * config.kv_heads;
    }
  }
  if (length_dependent_rope()) send_frequencies(0, count, lengths);
  send_input(count);
  embed(0, count, act.hidden);
  KvPass& kv = cache.begin_decode(spans);
  auto layers = [&] {
    weight_stream.begin(1);
    for (std::int64_t l = 0; l < config.layers; ++l) {
      kv.begin_layer(l);
      recorder.before_layer(l, count);
      layer.run(*compute, l,
                {.hidden = act.hidden,
                 .positions = act.input.positions,
                 .tokens = count,
                 .spans = spans,
                 .own_frequencies = length_dependent_rope()},
                kv);
      recorder.after_layer(l, count);
      kv.end_layer(l);
    }
  };
  if (tap || step_tap) {
    layers();
    kv.end();
    recorder.end(count);
    tap ? tap_rows(act.hidden, count) : layer.head(*compute, act.hidden, count);
    sample(count);
  } else {
    steps.run(count, [&] {
      layers();
      layer.head(*compute, act.hidden, count);
      sample(count);
    });
    kv.end();
  }
  wait_for_tokens();
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

void Engine::prefill(Session& session, const PrefillReport& report) { impl_->prefill(session, report); }
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
