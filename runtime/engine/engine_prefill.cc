// Prefill: one prompt, or several that begin alike, through all layers, whole or in pieces.
#include <array>
#include <utility>

#include "runtime/engine/engine_impl.h"
#include "runtime/engine/prefill_walk.h"
#include "runtime/engine/prefill_work.h"

namespace longhaul {

std::int64_t Engine::Impl::shared_rows(std::span<Session* const> sessions) const {
  const Probes& probes = options.probes;
  if (sessions.size() < 2 || options.shared_rest == 0 || length_dependent_rope() || memory.kv.selection.has_mass() ||
      probes.moments || probes.checksums || probes.adoptable || tap)
    return 0;
  for (const Session* session : sessions)
    if (temperature(*session) != temperature(*sessions[0])) return 0;
  const std::int64_t unit = options.share_unit > 0 ? options.share_unit : options.prefill_chunk;
  const std::int64_t shared = common_tokens(sessions) / unit * unit;
  std::int64_t rows = shared;
  for (const Session* session : sessions) rows += session->prompt_size() - shared;
  return rows <= memory.act.rows ? shared : 0;
}

/// Waits for what has been enqueued of it, and gives the room of its prompts back.
void Engine::Impl::give_up_prefill() {
  compute->record(*prefill_paused);
  device.host_wait(*prefill_paused, edge::kPrefillPaused);
  const auto run = std::exchange(prefilling, nullptr);
  for (const Prompt& prompt : run->walk.prompts) cache.release(prompt.slot);
}

void Engine::Impl::begin_prefill(std::span<Session* const> sessions) {
  if (prefilling) give_up_prefill();
  const Activations& act = memory.act;
  // Not act.chunk: how a prompt is cut must not depend on how many sessions decode together.
  auto run = std::make_unique<PrefillRun>(
      PrefillRun{.sessions = {sessions.begin(), sessions.end()},
                 .walk = plan_walk(config, sessions, shared_rows(sessions), options.prefill_chunk),
                 .inv_freq = nullptr,
                 .kv = nullptr});
  const PrefillWalk& walk = run->walk;
  check(sessions.size() == 1 || walk.shared > 0, "one prompt, or prompts that begin alike");
  for (const Session* session : sessions) {
    check(session->rows() == 0 && session->slot() < options.max_sessions, "a fresh session in a slot that exists");
    check(session->prompt_size() <= options.max_len, "the prompt fits the plan");
  }
  for (const PrefillPart& part : walk.parts)
    for (std::int64_t i = 0; i < part.tokens; ++i) {
      act.host_input.ids[part.row + i] = sessions[part.session]->tokens()[static_cast<std::size_t>(part.pos + i)];
      act.host_input.positions[part.row + i] = static_cast<std::int32_t>(part.pos + i);
    }
  run->inv_freq = send_prefill_frequencies(*sessions.front(), walk.rows);
  send_input(act.input, act.host_input, walk.rows);
  for (const Session* session : sessions) send_seen(*session, session->prompt_size());
  run->kv = &cache.begin_prefill(walk.prompts, walk.shared, run->inv_freq);
  weight_stream.begin(walk.chunks);
  run->weights = weight_stream.walk();
  hidden.begin(walk.chunks);
  prefilling = std::move(run);
}

/// Enqueues the next chunk and returns its work.
double Engine::Impl::prefill_chunk(PrefillRun& run) {
  const Activations& act = memory.act;
  const std::int64_t l = run.layer;
  const PrefillPart& part = run.walk.parts[static_cast<std::size_t>(run.part)];
  const Session& session = *run.sessions[static_cast<std::size_t>(part.session)];
  if (run.part == 0 && run.at == 0) run.kv->begin_layer(l);
  if (run.walk.shared > 0 && part.ends && run.at == 0)
    cache.begin_rest(l, run.walk.prompts[static_cast<std::size_t>(part.session)]);
  const Span span{.slot = session.slot(),
                  .pos = part.pos + run.at,
                  .tokens = std::min(options.prefill_chunk, part.tokens - run.at),
                  .row = part.row + run.at};
  run.at += span.tokens;
  const bool ends = run.at == part.tokens;
  std::byte* states = hidden.arrive(l, span.row, span.tokens);
  if (l == 0) embed(act.input.ids + span.row, span.tokens, states);
  layer.run(*compute, l,
            {.hidden = states,
             .positions = act.input.positions + span.row,
             .tokens = span.tokens,
             .spans = {&span, 1},
             .inv_freq = run.inv_freq,
             .freq_stride = 0,
             .temperature = temperature(session)},
            *run.kv);
  if (options.probes.moments) add_moments(l, span.tokens);
  if (l + 1 == config.layers) {
    if (tap) tap_rows(states, span.tokens);
    if (part.ends && ends) {
      layer.head(*compute, states + (span.tokens - 1) * config.hidden * size_of(act.act), 1);
      const std::int64_t place = options.max_sessions + part.session;
      act.host_params[place] = session.next_sampling();
      sample(place, 1);
    }
  }
  hidden.leave(l, span.row, span.tokens);
  compute->record(*paced[run.enqueued++ % PrefillRun::kPaced]);
  if (ends) {
    if (part.ends) run.kv->end_layer(l);
    run.at = 0;
    if (++run.part == std::ssize(run.walk.parts)) run.part = 0, ++run.layer;
  }
  return chunk_work(config, l, span.pos, span.tokens);
}

PrefillProgress Engine::Impl::advance_prefill(double work, const PrefillReport& report) {
  check(prefilling != nullptr, "a prefill is under way");
  PrefillRun& run = *prefilling;
  auto pace = [&](std::int64_t index) {  // wait for a chunk enqueued kPaced ago
    device.host_wait(*paced[index % PrefillRun::kPaced], edge::kPrefillPaced);
    run.done += std::exchange(run.work[index % PrefillRun::kPaced], 0);
    if (report && run.done > 0) report({run.done, run.walk.work});
  };
  if (std::exchange(run.stepped, false)) weight_stream.resume(run.weights, run.layer);
  try {
    for (double given = 0; run.layer < config.layers && (given == 0 || given < work);) {
      const std::int64_t index = run.enqueued;
      pace(index);
      given += run.work[index % PrefillRun::kPaced] = prefill_chunk(run);
    }
  } catch (...) {  // of `report`
    give_up_prefill();
    throw;
  }
  if (run.layer < config.layers) {
    run.weights = weight_stream.walk();
    compute->record(*prefill_paused);
    device.host_wait(*prefill_paused, edge::kPrefillPaused);
    for (double& chunk : run.work) run.done += std::exchange(chunk, 0);
    return {run.done, run.walk.work};
  }
  run.kv->end();
  for (std::int64_t i = 0; i < PrefillRun::kPaced; ++i) pace(run.enqueued + i);
  wait_for_tokens();
  for (std::int64_t i = 0; i < std::ssize(run.sessions); ++i)
    run.sessions[i]->accept(memory.act.host_sampled[options.max_sessions + i], run.sessions[i]->prompt_size());
  const PrefillProgress whole{run.walk.work, run.walk.work};
  prefilling.reset();
  return whole;
}

}  // namespace longhaul
