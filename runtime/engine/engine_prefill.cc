// Prefill: one prompt, or several that begin alike, through all layers.
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
  // Whole chunks: how a prompt is cut must not depend on who else there is.
  const std::int64_t shared = common_tokens(sessions) / options.prefill_chunk * options.prefill_chunk;
  std::int64_t rows = shared;
  for (const Session* session : sessions) rows += session->prompt_size() - shared;
  return rows <= memory.act.rows ? shared : 0;
}

void Engine::Impl::prefill(std::span<Session* const> sessions, const PrefillReport& report) {
  const Activations& act = memory.act;
  // Not act.chunk: how a prompt is cut must not depend on how many sessions decode together.
  const std::int64_t chunk = options.prefill_chunk;
  const PrefillWalk walk = plan_walk(config, sessions, shared_rows(sessions), chunk);
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
  if (length_dependent_rope()) send_frequencies(0, 1, std::array{rope_length(*sessions.front(), walk.rows)});
  send_input(walk.rows);
  for (const Session* session : sessions) send_seen(*session, session->prompt_size());

  double done = 0;
  std::array<double, kPaced> work{};
  std::int64_t enqueued = 0;
  auto pace = [&](std::int64_t index) {  // wait for a chunk enqueued kPaced ago
    device.host_wait(*paced[index % kPaced], edge::kPrefillPaced);
    done += std::exchange(work[index % kPaced], 0);
    if (report && done > 0) report({done, walk.work});
  };

  KvPass& kv = cache.begin_prefill(walk.prompts, walk.shared, act.inv_freq);
  weight_stream.begin(walk.chunks);
  hidden.begin(walk.chunks);
  for (std::int64_t l = 0; l < config.layers; ++l) {
    kv.begin_layer(l);
    for (const PrefillPart& part : walk.parts) {
      const Session& session = *sessions[part.session];
      if (walk.shared > 0 && part.ends) cache.begin_rest(l, walk.prompts[part.session]);
      for (std::int64_t at = 0; at < part.tokens; at += chunk, ++enqueued) {
        const Span span{.slot = session.slot(),
                        .pos = part.pos + at,
                        .tokens = std::min(chunk, part.tokens - at),
                        .row = part.row + at};
        pace(enqueued);
        std::byte* states = hidden.arrive(l, span.row, span.tokens);
        if (l == 0) embed(span.row, span.tokens, states);
        layer.run(*compute, l,
                  {.hidden = states,
                   .positions = act.input.positions + span.row,
                   .tokens = span.tokens,
                   .spans = {&span, 1},
                   .own_frequencies = false},
                  kv);
        if (options.probes.moments) add_moments(l, span.tokens);
        if (l + 1 == config.layers) {
          if (tap) tap_rows(states, span.tokens);
          if (part.ends && at + span.tokens == part.tokens) {
            layer.head(*compute, states + (span.tokens - 1) * config.hidden * size_of(act.act), 1);
            act.host_params[part.session] = session.next_sampling();
            sample(1, part.session);
          }
        }
        hidden.leave(l, span.row, span.tokens);
        compute->record(*paced[enqueued % kPaced]);
        work[enqueued % kPaced] = chunk_work(config, l, span.pos, span.tokens);
      }
      if (part.ends) kv.end_layer(l);
    }
  }
  kv.end();
  for (std::int64_t i = 0; i < kPaced; ++i) pace(enqueued + i);
  wait_for_tokens();
  for (std::int64_t i = 0; i < std::ssize(sessions); ++i)
    sessions[i]->accept(act.host_sampled[i], sessions[i]->prompt_size());
}

}  // namespace longhaul
