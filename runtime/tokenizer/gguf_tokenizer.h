// The tokenizer inside a GGUF file as the documents that Hugging Face has for the same tokenizer, so that one loader
// decides what is supported.
#pragma once
#include <nlohmann/json.hpp>

#include "runtime/checkpoint/gguf.h"

namespace longhaul {

/// tokenizer.json of tokenizer.ggml.model "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE). What cuts text before
/// BPE is known by the name in tokenizer.ggml.pre alone: an unknown one is refused. Throws UserError{bad_model}.
nlohmann::json gguf_tokenizer(const Gguf& file);
/// The part of tokenizer_config.json that templates need: chat_template, bos_token and so on.
nlohmann::json gguf_tokenizer_config(const Gguf& file);

}  // namespace longhaul
