// Everything an engine takes, in one place: run with counting arenas it is the plan, with carving arenas the use.
#pragma once
#include "offload/kv_buffers.h"
#include "runtime/activations.h"
#include "runtime/weights.h"

namespace longhaul {

struct EngineMemory {
  EngineMemory(const ModelConfig& config, const EngineOptions& options, Arena& device, Arena& host)
      : weights(config, device, host),
        act(config, options, device, host),
        kv(kv_shape(config, options.activations),
           make_layout(options.policy, options.resident, options.max_sessions, options.max_len), act.chunk, device,
           host) {}

  Weights weights;
  Activations act;
  KvBuffers kv;
};

}  // namespace longhaul
