// What an engine's memory holds before its first prompt, but for the weights of a file.
#pragma once
#include "runtime/engine/engine_memory.h"

namespace longhaul {

/// Random weights where those are wanted, label bases that are not fitted to a document, moments of 0, noise: as the
/// options ask. Waits until all of it is there.
void set_up(Device& device, Stream& compute, const ModelConfig& config, const EngineOptions& options,
            const EngineMemory& memory, bool random_weights);

}  // namespace longhaul
