// Everything a model folder says, read and checked but not loaded.
#pragma once
#include <string>

#include "runtime/chat_template.h"
#include "runtime/model_config.h"
#include "runtime/safetensors.h"
#include "runtime/tokenizer.h"

namespace longhaul {

struct ModelFiles {
  /// Throws UserError{bad_model}.
  explicit ModelFiles(const std::string& dir, const ChatOptions& chat = {});

  /// The token ids of a prompt. Nothing inside a message is read as a special token. Without a chat template, what the
  /// tokenizer puts around a text (often BOS) is around it.
  std::vector<std::int32_t> prompt_ids(std::vector<Message> messages) const;
  /// The text of an answer, without its special tokens.
  std::string answer_text(std::span<const std::int32_t> ids) const;
  /// The tokens that end an answer.
  const std::vector<std::int32_t>& eos() const;

  std::string name;  // of the folder; what responses call the model
  ModelConfig config;
  GenerationDefaults generation;
  Safetensors weights;
  Tokenizer tokenizer;
  ChatTemplate chat;
};

}  // namespace longhaul
