// The rows of a prefill in the order in which a layer takes them: those that the prompts begin with alike, then the
// rest of each prompt.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "offload/kv_cache.h"
#include "runtime/engine/session.h"
#include "runtime/model/model_config.h"

namespace longhaul {

struct PrefillPart {
  std::int64_t session, pos, tokens;  // whose, and where in the prompt
  std::int64_t row;                   // of the walk
  bool ends;                          // with the prompt
};

struct PrefillWalk {
  std::vector<Prompt> prompts;
  std::vector<PrefillPart> parts;
  std::int64_t shared = 0, rows = 0, chunks = 0;  // chunks: of a layer
  double work = 0;                                // of all layers, as chunk_work counts it
};

/// Tokens that all prompts begin with, less than any of them has.
std::int64_t common_tokens(std::span<Session* const> sessions);

/// `shared`: of the rows that the prompts begin with alike; 0 for one prompt alone.
PrefillWalk plan_walk(const ModelConfig& config, std::span<Session* const> sessions, std::int64_t shared,
                      std::int64_t chunk);

}  // namespace longhaul
