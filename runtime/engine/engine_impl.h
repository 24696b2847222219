// What an engine is made of, and the small things that its walks through the layers share. For the engine's own
// sources.
#pragma once
#include <algorithm>
#include <array>
#include <vector>

#include "kernels/base/error.h"
#include "offload/edges.h"
#include "offload/kv_cache.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/engine_memory.h"
#include "runtime/engine/engine_setup.h"
#include "runtime/engine/look_ahead_choice.h"
#include "runtime/engine/pinned_memory.h"
#include "runtime/engine/prefill_run.h"
#include "runtime/engine/recorded_steps.h"
#include "runtime/engine/step_recorder.h"
#include "runtime/model/hidden_states.h"
#include "runtime/model/layer.h"

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
        aside(device.make_stream("aside")),
        labels(device.make_stream("labels")),
        fetch(device.make_stream("fetch")),
        store(device.make_stream("store")),
        token_ready(device.make_event()),
        prefill_paused(device.make_event()),
        cache(device, kv_streams(), memory.kv),
        weight_stream(device, *compute, memory.weights),
        hidden(device, kv_streams(), this->config, memory.act),
        layer(this->config, memory.kv.shape, memory.weights, weight_stream, memory.act),
        recorder(this->config, this->options, memory, *compute),
        steps(device, streams(), options.replay_steps && memory.kv.steps_alike()),
        look_ahead(options.policy.look_ahead == LookAhead::measured && !memory.kv.layout.all_resident() &&
                   !memory.kv.selection.judges()) {
    check(options.max_sessions >= 1 && options.max_sessions <= kDecodeTokens,
          "at most kDecodeTokens sessions together");
    check(!options.packed || options.formats != nullptr, "packed weights have formats");
    check(options.prefill_chunk >= 1, "a prefill goes on by at least one token");
    check(device_arena.used() == plan.device_bytes && host_arena.used() == plan.host_bytes, "the plan is the use");
    for (auto& event : paced) event = device.make_event();
    if (file != nullptr) memory.weights.load(device, *fetch, *file, loading);
    set_up(device, *compute, config, options, memory, /*random_weights=*/file == nullptr);
    if (!length_dependent_rope()) send_frequencies(0, std::array{std::int64_t{0}});
  }

  Streams kv_streams() const { return {*compute, *aside, *labels, *fetch, *store}; }
  /// Of a step, which waits for labels by itself, where they are of one of its sessions.
  std::vector<Stream*> streams() const {
    std::vector<Stream*> all{compute.get(), aside.get(), fetch.get(), store.get()};
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

  /// By the prompt's length, like that: all keys of a session are alike.
  float temperature(const Session& session) const { return config.dual_chunks.temperature(session.prompt_size()); }

  /// Rope tables for rows of these lengths, to the places from `first` on.
  void send_frequencies(std::int64_t first, std::span<const std::int64_t> lengths) {
    const std::int64_t half = config.head_dim / 2;
    float* const to = memory.act.host_inv_freq + first * half;
    for (std::size_t i = 0; i < lengths.size(); ++i)
      std::ranges::copy(rope_frequencies(config.rope, config.head_dim, lengths[i]),
                        to + static_cast<std::int64_t>(i) * half);
    send(memory.act.inv_freq + first * half, to, std::ssize(lengths) * half);
  }

  /// The table that a prompt's `rows` rows are turned by: sent where it depends on them, else the one of all rows. The
  /// first thing of a prompt: labels of the prompt before are fitted to the table of that one.
  const float* send_prefill_frequencies(const Session& session, std::int64_t rows) {
    cache.settle();
    if (!length_dependent_rope()) return memory.act.inv_freq;
    send_frequencies(options.max_sessions, std::array{rope_length(session, rows)});
    return memory.act.inv_freq + options.max_sessions * config.head_dim / 2;
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
  void send_input(const StepInput& to, const StepInput& from, std::int64_t rows) {
    send(to.ids, from.ids, rows);
    send(to.positions, from.positions, rows);
  }

  /// Embeds `rows` tokens.
  void embed(const std::int32_t* ids, std::int64_t rows, std::byte* out) {
    compute->launch(EmbedArgs{.ids = ids,
                              .table = memory.weights.embedding(),
                              .out = out,
                              .act = memory.act.act,
                              .tokens = rows,
                              .hidden = config.hidden,
                              .vocab = config.vocab});
  }

  /// What the session's penalty is for: its first `rows` tokens. The ones after them join as steps are sampled, so that
  /// forced tokens count as they are. The host must not be in flight with another set of the slot's.
  void send_seen(const Session& session, std::int64_t rows) {
    if (!session.penalised()) return;
    const std::int64_t words = seen_words(config.vocab), first = session.slot() * words;
    std::uint32_t* const seen = memory.act.host_seen + first;
    std::fill_n(seen, words, 0u);
    for (const std::int32_t id : std::span(session.tokens()).first(static_cast<std::size_t>(rows))) {
      check(id >= 0 && id < config.vocab, "token id outside the vocabulary");
      seen[id / 32] |= 1u << id % 32;
    }
    send(memory.act.seen + first, seen, words);
  }

  /// Samples the `rows` rows of logits, with the parameters from `place` on, and brings the tokens to the host.
  void sample(std::int64_t place, std::int64_t rows) {
    const Activations& act = memory.act;
    send(act.params + place, act.host_params + place, rows);
    compute->launch(SampleArgs{.logits = act.logits,
                               .params = act.params + place,
                               .out = act.sampled + place,
                               .tokens = rows,
                               .vocab = config.vocab,
                               .seen = act.seen});
    compute->copy({.dst = act.host_sampled + place,
                   .src = act.sampled + place,
                   .width = rows * 4,
                   .kind = CopyKind::device_to_host});
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

  std::int64_t shared_rows(std::span<Session* const> sessions) const;
  void begin_prefill(std::span<Session* const> sessions);
  void give_up_prefill();
  PrefillProgress advance_prefill(double work, const PrefillReport& report);
  double prefill_chunk(PrefillRun& run);
  void fill(Session& session);
  void add_moments(std::int64_t layer, std::int64_t tokens);
  void adopt(Session& session, Impl& from, const Session& source);
  void rewind(Session& session, std::int64_t rows, std::int32_t next);
  void step(std::span<Session* const> sessions);

  Device& device;
  ModelConfig config;
  EngineOptions options;
  MemoryPlan plan;
  Buffer device_memory;
  PinnedMemory host_memory;
  Arena device_arena, host_arena;
  EngineMemory memory;
  std::unique_ptr<Stream> compute, aside, labels, fetch, store;
  std::unique_ptr<Event> token_ready, prefill_paused;
  std::array<std::unique_ptr<Event>, PrefillRun::kPaced> paced;
  KvCache cache;
  WeightStream weight_stream;
  HiddenStates hidden;
  Layer layer;
  StepRecorder recorder;
  LogitsTap tap;
  StepTap step_tap;
  std::vector<float> tapped;
  RecordedSteps steps;
  LookAheadChoice look_ahead;              // judged predictions are made at every step
  std::unique_ptr<PrefillRun> prefilling;  // null: none is under way
  RowCounts rows;                          // what the host knows of them
};

}  // namespace longhaul
