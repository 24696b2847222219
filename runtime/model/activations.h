// What a walk through the layers needs beside weights and KV rows. Device memory of the arena, laid out once; the host
// side is what a step sends and gets back. What a prefill keeps from one chunk to the next has no place that a step of
// other sessions takes, so that steps can be put between its chunks; what lasts within a layer is shared.
#pragma once
#include "kernels/arena.h"
#include "kernels/ops.h"
#include "runtime/plan/plan.h"

namespace longhaul {

/// What a walk begins with.
struct StepInput {
  std::int32_t* ids;        // [rows]
  std::int32_t* positions;  // [rows]

  StepInput(std::int64_t rows, Arena& arena)
      : ids(arena.take<std::int32_t>(rows, "token ids")), positions(arena.take<std::int32_t>(rows, "token ids")) {}
};

struct Activations {
  Activations(const ModelConfig& c, const EngineOptions& o, Arena& device, Arena& host)
      : rows(o.max_len + o.shared_rest),
        chunk(std::max(std::min(o.prefill_chunk, o.max_len), o.max_sessions)),
        act(o.activations),
        hidden(device.take_bytes((o.spill_hidden ? 2 * chunk : rows) * c.hidden * size_of(act), "hidden states")),
        step_hidden(device.take_bytes(o.max_sessions * c.hidden * size_of(act), "hidden states")),
        normed(scratch(device, c.hidden)),
        qkv(scratch(device, (c.q_heads + 2 * c.kv_heads) * c.head_dim)),
        attended(scratch(device, c.q_heads * c.head_dim)),
        gate_up(scratch(device, networks(c) * 2 * c.intermediate)),
        inner(scratch(device, networks(c) * c.intermediate)),
        mixed(scratch(device, c.experts_per_token * c.hidden)),
        router_logits(device.take<float>(chunk * c.experts, "expert routes")),
        routes(take_routes(device, c)),
        foreseen(device.take_bytes(looked_ahead(o) * c.hidden * size_of(act), "predicted queries")),
        predicted(query(device, c, looked_ahead(o))),
        noise(o.probes.noise ? query(device, c, o.max_sessions) : nullptr),
        older(scratch(device, older_forms(c, o) * c.q_heads * c.head_dim)),
        predicted_older(query(device, c, older_forms(c, o) * looked_ahead(o))),
        logits(device.take<float>(o.max_sessions * c.vocab, "logits")),
        inv_freq(device.take<float>((o.max_sessions + 1) * c.head_dim / 2, "rope table")),
        temperatures(device.take<float>(tempered(c, o) ? o.max_sessions : 0, "rope table")),
        params(device.take<SampleParams>(2 * o.max_sessions, "sampling")),
        sampled(device.take<std::int32_t>(2 * o.max_sessions, "sampling")),
        seen(device.take<std::uint32_t>(o.max_sessions * seen_words(c.vocab), "sampling")),
        input(rows, device),
        step_input(o.max_sessions, device),
        host_inv_freq(host.take<float>((o.max_sessions + 1) * c.head_dim / 2, "step input and output")),
        host_temperatures(host.take<float>(tempered(c, o) ? o.max_sessions : 0, "step input and output")),
        host_params(host.take<SampleParams>(2 * o.max_sessions, "step input and output")),
        host_sampled(host.take<std::int32_t>(2 * o.max_sessions, "step input and output")),
        host_seen(host.take<std::uint32_t>(o.max_sessions * seen_words(c.vocab), "step input and output")),
        host_input(rows, host),
        host_step_input(o.max_sessions, host),
        host_hidden(o.spill_hidden ? host.take_bytes(rows * c.hidden * size_of(act), "hidden states") : nullptr),
        spilled_(o.spill_hidden),
        tempered_(tempered(c, o)) {}

  /// Whether a prompt's hidden states live in host memory.
  bool spilled() const { return spilled_; }
  /// Whether sessions may have a temperature other than 1 (DualChunks).
  bool tempered() const { return tempered_; }
  std::byte* hidden_row(std::int64_t row, std::int64_t width) const { return hidden + row * width * size_of(act); }

  std::int64_t rows, chunk;  // most rows of a prefill, and of a call of a layer
  DType act;
  std::byte* hidden;                                     // [rows, hidden] act; spilled: two slots of [chunk, hidden]
  std::byte* step_hidden;                                // [max_sessions, hidden] act
  std::byte *normed, *qkv, *attended, *gate_up, *inner;  // [chunk, ...] act; the last two for each of a token's experts
  std::byte* mixed;                                      // [chunk, experts_per_token, hidden] act: what experts give
  float* router_logits;                                  // [chunk, experts]
  Routes routes;                                         // of a chunk
  std::byte* foreseen;                                   // [max_sessions, hidden] act: what look-ahead begins with
  std::byte* predicted;                                  // [max_sessions, q_heads * head_dim] act: the next layer's q
  std::byte* noise;                                      // the same, in place of a prediction (Probes::noise)
  std::byte* older;                                      // [2, chunk, q_heads * head_dim] act: QueryForms, if any
  std::byte* predicted_older;                            // [2, max_sessions, ...]: of the next layer's q
  float* logits;                                         // [max_sessions, vocab]
  float* inv_freq;                                       // [max_sessions + 1, head_dim / 2]; the last a prefill's
  float* temperatures;                                   // [max_sessions] of a step, if tempered()
  SampleParams* params;                                  // [2, max_sessions]: a step's, a prefill's
  std::int32_t* sampled;                                 // the same
  std::uint32_t* seen;                                   // [max_sessions, seen_words(vocab)] by slot, where penalised
  StepInput input, step_input;

  float *host_inv_freq, *host_temperatures;
  SampleParams* host_params;
  std::int32_t* host_sampled;
  std::uint32_t* host_seen;
  StepInput host_input, host_step_input;
  std::byte* host_hidden;  // [rows, hidden] act, where they are spilled

 private:
  bool spilled_, tempered_;
  static std::int64_t looked_ahead(const EngineOptions& o) {
    return o.policy.look_ahead != LookAhead::none ? o.max_sessions : 0;
  }
  static std::int64_t older_forms(const ModelConfig& c, const EngineOptions& o) {
    return kv_shape(c, o).chunk > 0 ? 2 : 0;
  }
  static bool tempered(const ModelConfig& c, const EngineOptions& o) {
    return c.dual_chunks.temperature(o.max_len) > 1;
  }
  std::byte* query(Arena& device, const ModelConfig& c, std::int64_t tokens) const {
    return device.take_bytes(tokens * c.q_heads * c.head_dim * size_of(act), "predicted queries");
  }
  static std::int64_t networks(const ModelConfig& c) { return std::max<std::int64_t>(c.experts_per_token, 1); }
  Routes take_routes(Arena& device, const ModelConfig& c) const {
    const std::int64_t pairs = chunk * c.experts_per_token;
    auto take = [&](std::int64_t count) { return device.take<std::int32_t>(count, "expert routes"); };
    return {.expert = take(pairs),
            .weight = device.take<float>(pairs, "expert routes"),
            .place = take(pairs),
            .token = take(pairs),
            .begin = take(c.experts > 0 ? c.experts + 1 : 0),
            .experts = c.experts,
            .chosen = c.experts_per_token};
  }
  std::byte* scratch(Arena& device, std::int64_t width) const {
    return device.take_bytes(chunk * width * size_of(act), "layer scratch");
  }
};

}  // namespace longhaul
