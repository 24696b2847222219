// Everything an engine takes, in one place: run with counting arenas it is the plan, with carving arenas the use.
#pragma once
#include "offload/kv_buffers.h"
#include "runtime/engine/probe_buffers.h"
#include "runtime/model/activations.h"
#include "runtime/model/weights.h"

namespace longhaul {

struct EngineMemory {
  EngineMemory(const ModelConfig& config, const EngineOptions& options, Arena& device, Arena& host)
      : weights(config, options.streamed_layers, options.host_embedding, device, host,
                options.packed ? options.formats : nullptr),
        act(config, options, device, host),
        kv(kv_shape(config, options), options.policy, kv_layout(config, options),
           {.given_bases = options.bases != nullptr || options.policy.labels == Labels::exact,
            .all_queries = options.probes.adoptable,
            .shared = options.shared_rest > 0,
            .layers_held = options.layers_held,
            .mass = options.probes.mass,
            .judge = options.probes.steps,
            .checksums = options.probes.checksums,
            .replay = options.replay},
           act.chunk, device, host),
        probes(config, options, kv.layout, device, host) {}

  Weights weights;
  Activations act;
  KvBuffers kv;
  ProbeBuffers probes;
};

}  // namespace longhaul
