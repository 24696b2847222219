// A GGUF file's metadata as the config.json that Hugging Face has for the same model, so that one parser decides what
// is supported.
#pragma once
#include <nlohmann/json.hpp>

#include "runtime/checkpoint/gguf.h"

namespace longhaul {

/// Of the architectures llama (which Mistral's and Mixtral's files say, too), qwen2, qwen3, qwen3moe, phi3 and smollm3.
/// Strict: a key of the architecture that has no counterpart there is refused by name. Throws UserError{bad_model}.
nlohmann::json gguf_config(const Gguf& file);

}  // namespace longhaul
