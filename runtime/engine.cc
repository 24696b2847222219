#include "runtime/engine.h"

#include <algorithm>
#include <array>
#include <random>
#include <utility>

#include "kernels/base/error.h"
#include "offload/edges.h"
#include "offload/kv_cache.h"
#include "runtime/engine_memory.h"
#include "runtime/label_bases.h"
#include "runtime/layer.h"
#include "runtime/pinned_memory.h"
#include "runtime/prefill_work.h"
#include "runtime/recorded_steps.h"
#include "runtime/step_recorder.h"

namespace longhaul {
struct Engine::Impl {
  /// `file` may be null: random weights.
  Impl(Device& device, const ModelConfig& config, const Safetensors* file, const EngineOptions& options,
       const PinReport& pinning = {})
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
        layer(this->config, memory.kv.shape, memory.weights, memory.act),
        recorder(this->config, this->options, memory, *compute),
        steps(device, {compute.get(), fetch.get(), store.get()}, options.replay_steps && memory.kv.steps_alike()) {
    check(options.max_sessions >= 1 && options.max_sessions <= kDecodeTokens,
          "at most kDecodeTokens sessions together");
    check(options.prefill_chunk >= 1, "a prefill goes on by at least one token");
    check(device_arena.used() == plan.device_bytes && host_arena.used() == plan.host_bytes, "the plan is the use");
    for (auto& event : paced) event = device.make_event();
    if (file != nullptr) memory.weights.load(device, *fetch, *file);
    else memory.weights.randomize(*compute);
    send_bases();
    if (options.probes.moments) clear_moments();
    if (options.probes.noise) send_noise();
    if (!length_dependent_rope()) send_frequencies(0, 1, {});
  }

  bool length_dependent_rope() const { return config.rope.type == RopeType::dynamic; }

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

  /// The maps of labels that are not fitted to the document, the same for every slot.
  void send_bases() {
    const KvBuffers& kv = memory.kv;
    const Labels labels = options.policy.labels;
    if (options.policy.select != Select::labels || !kv.selection.given_bases()) return;
    const std::int64_t d = config.head_dim, dims = options.policy.dims(d), maps = 2 * dims * d;
    auto bases = labels == Labels::exact ? std::make_shared<const LabelBases>(exact_bases(config)) : options.bases;
    check(bases->dims == dims && std::ssize(bases->maps) == config.layers * config.kv_heads * maps,
          "the bases belong to the model and the policy");
    for (std::int64_t slot = 0; slot < options.max_sessions; ++slot)
      for (std::int64_t l = 0; l < config.layers; ++l)
        compute->copy({.dst = kv.selection.labels(slot, l).basis,
                       .src = bases->maps.data() + l * config.kv_heads * maps,
                       .width = maps * 4,
                       .height = config.kv_heads,
                       .dst_pitch = label_basis_floats(dims, d) * 4,
                       .src_pitch = maps * 4,
                       .kind = CopyKind::host_to_device});
    finish_compute();
  }

  void clear_moments() {
    auto* words = reinterpret_cast<std::int32_t*>(memory.probes.moments);
    compute->launch(FillArgs{words, 0, config.layers * config.kv_heads * moment_doubles(config.head_dim) * 2});
  }

  void send_noise() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    const std::int64_t count = options.max_sessions * config.q_heads * config.head_dim;
    std::vector<std::byte> noise(static_cast<std::size_t>(count * size_of(memory.act.act)));
    for (std::int64_t i = 0; i < count; ++i) {
      const float x = normal(random);
      if (memory.act.act == DType::f32) reinterpret_cast<float*>(noise.data())[i] = x;
      else reinterpret_cast<bf16*>(noise.data())[i] = to_bf16(x);
    }
    send(memory.act.noise, noise.data(), std::ssize(noise));
    finish_compute();
  }

  /// Waits for all that was enqueued on compute; outside of steps.
  void finish_compute() {
    compute->record(*token_ready);
    device.host_wait(*token_ready, {"compute_finished"});
  }

  /// Embeds `rows` rows whose ids and positions are in host_input.
  void embed(std::int64_t rows) {
    const Activations& act = memory.act;
    send(act.input.ids, act.host_input.ids, rows);
    send(act.input.positions, act.host_input.positions, rows);
    compute->launch(EmbedArgs{.ids = act.input.ids,
                              .table = memory.weights.embedding(),
                              .out = act.hidden,
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

  /// Brings the logits of hidden rows [first, first + rows) to the host, in groups that fit the logits buffer.
  void tap_rows(std::int64_t first, std::int64_t rows) {
    const std::int64_t group = std::min(options.max_sessions, memory.act.chunk);
    for (std::int64_t done = 0; done < rows; done += group) {
      const std::int64_t n = std::min(group, rows - done);
      layer.head(*compute, first + done, n);
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
  if (length_dependent_rope()) send_frequencies(0, 1, std::array{n});
  embed(n);

  // Not act.chunk: how a prompt is cut must not depend on how many sessions decode together.
  const std::int64_t chunk = options.prefill_chunk;
  double total = 0, done = 0;
  for (std::int64_t pos = 0; pos < n; pos += chunk)
    total += chunk_work(config, pos, std::min(chunk, n - pos)) * static_cast<double>(config.layers);
  std::array<double, kPaced> work{};
  std::int64_t enqueued = 0;
  auto pace = [&](std::int64_t index) {  // wait for a chunk enqueued kPaced ago
    device.host_wait(*paced[index % kPaced], edge::kPrefillPaced);
    done += std::exchange(work[index % kPaced], 0);
    if (report && done > 0) report({done, total});
  };

  KvPass& kv = cache.begin_prefill(session.slot(), n, act.inv_freq);
  for (std::int64_t l = 0; l < config.layers; ++l) {
    kv.begin_layer(l);
    for (std::int64_t pos = 0; pos < n; pos += chunk, ++enqueued) {
      const Span span{.slot = session.slot(), .pos = pos, .tokens = std::min(chunk, n - pos), .row = pos};
      pace(enqueued);
      layer.run(*compute, l, {.row = pos, .tokens = span.tokens, .spans = {&span, 1}, .own_frequencies = false}, kv);
      if (options.probes.moments) add_moments(l, span.tokens);
      compute->record(*paced[enqueued % kPaced]);
      work[enqueued % kPaced] = chunk_work(config, pos, span.tokens);
    }
    kv.end_layer(l);
  }
  kv.end();
  for (std::int64_t i = 0; i < kPaced; ++i) pace(enqueued + i);

  if (tap) tap_rows(0, n);
  layer.head(*compute, n - 1, 1);
  act.host_params[0] = session.next_sampling();
  sample(1);
  wait_for_tokens();
  session.accept(act.host_sampled[0], n);
}

void Engine::Impl::fill(Session& session) {
  const std::int64_t n = session.prompt_size();
  check(session.rows() == 0 && session.slot() < options.max_sessions && n <= options.max_len, "a slot that exists");
  if (length_dependent_rope()) send_frequencies(0, 1, std::array{n});
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
  check(!length_dependent_rope(), "adopt: a rope that depends on the length is not handed on");
  cache.adopt(session.slot(), from.memory.kv, source.slot(), n, memory.act.inv_freq);
  finish_compute();
  session.accept(source.tokens()[static_cast<std::size_t>(n)], n);
}

void Engine::Impl::rewind(Session& session, std::int64_t rows, std::int32_t next) {
  check(memory.kv.layout.all_resident(), "rewind: every row is on the device");
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
    lengths.push_back(session.rows() + 1);
    for (const LayerPlan& plan : memory.kv.plan) {
      rows.attended += (plan.selects ? options.policy.budget(lengths.back()) : lengths.back()) * config.kv_heads;
      rows.all += lengths.back() * config.kv_heads;
    }
  }
  if (length_dependent_rope()) send_frequencies(0, count, lengths);
  embed(count);
  KvPass& kv = cache.begin_decode(spans);
  auto layers = [&] {
    for (std::int64_t l = 0; l < config.layers; ++l) {
      kv.begin_layer(l);
      recorder.before_layer(l, count);
      layer.run(*compute, l, {.row = 0, .tokens = count, .spans = spans, .own_frequencies = length_dependent_rope()},
                kv);
      recorder.after_layer(l, count);
      kv.end_layer(l);
    }
  };
  if (tap || step_tap) {
    layers();
    kv.end();
    recorder.end(count);
    tap ? tap_rows(0, count) : layer.head(*compute, 0, count);
    sample(count);
  } else {
    steps.run(count, [&] {
      layers();
      layer.head(*compute, 0, count);
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

Engine::Engine(Device& device, const ModelConfig& config, const Safetensors& weights, const EngineOptions& options,
               const PinReport& pinning)
    : impl_(std::make_unique<Impl>(device, config, &weights, options, pinning)) {}
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
