#include "runtime/engine/prefill_walk.h"

#include <algorithm>

#include "runtime/engine/prefill_work.h"

namespace longhaul {

std::int64_t common_tokens(std::span<Session* const> sessions) {
  const auto begin = sessions[0]->tokens().begin();
  std::int64_t alike = sessions[0]->prompt_size() - 1;
  for (const Session* session : sessions) {
    const std::int64_t most = std::min(alike, session->prompt_size() - 1);
    alike = std::mismatch(begin, begin + most, session->tokens().begin()).first - begin;
  }
  return alike;
}

PrefillWalk plan_walk(const ModelConfig& config, std::span<Session* const> sessions, std::int64_t shared,
                      std::int64_t chunk) {
  PrefillWalk walk{.shared = shared, .rows = shared};
  if (shared > 0) walk.parts.push_back({.session = 0, .pos = 0, .tokens = shared, .row = 0, .ends = false});
  for (std::int64_t i = 0; i < std::ssize(sessions); ++i) {
    const std::int64_t n = sessions[i]->prompt_size();
    walk.prompts.push_back({sessions[i]->slot(), n, sessions[i]->most_tokens()});
    walk.parts.push_back({.session = i, .pos = shared, .tokens = n - shared, .row = walk.rows, .ends = true});
    walk.rows += n - shared;
  }
  for (const PrefillPart& part : walk.parts)
    for (std::int64_t at = 0; at < part.tokens; at += chunk, ++walk.chunks)
      for (std::int64_t l = 0; l < config.layers; ++l)
        walk.work += chunk_work(config, l, part.pos + at, std::min(chunk, part.tokens - at));
  return walk;
}

}  // namespace longhaul
