// Which weights these are, in 16 hex digits: what a calibration was made for, and what finds a shipped one.
#pragma once
#include <string>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/model_config.h"

namespace longhaul {

/// Of the shape, the RoPE and a sample of every tensor's bytes (16 pieces of 256 bytes, evenly spread), so that it
/// takes milliseconds. The same for a sharded and an unsharded copy. A different training step gives another; a change
/// of single weights may not. Not proof against intent.
std::string weights_fingerprint(const ModelConfig& config, const Checkpoint& weights);

}  // namespace longhaul
