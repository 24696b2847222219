// Everything a model folder or a GGUF file says, read and checked but not loaded.
#pragma once
#include <string>

#include "runtime/checkpoint/model_source.h"

namespace longhaul {

struct ModelFiles {
  /// Throws UserError{bad_model}.
  explicit ModelFiles(const std::string& model, const ChatOptions& chat = {}) : ModelFiles(ModelSource(model), chat) {}

  /// The token ids of a prompt. Nothing inside a message is read as a special token. Without a chat template, what the
  /// tokenizer puts around a text (often BOS) is around it.
  std::vector<std::int32_t> prompt_ids(std::vector<Message> messages) const;
  /// The text of an answer, without its special tokens.
  std::string answer_text(std::span<const std::int32_t> ids) const;
  /// The tokens that end an answer.
  const std::vector<std::int32_t>& eos() const;

  std::string name;  // of the folder or file; what responses call the model
  ModelConfig config;
  GenerationDefaults generation;
  Checkpoint weights;
  Tokenizer tokenizer;
  ChatTemplate chat;

 private:
  ModelFiles(const ModelSource& source, const ChatOptions& chat);
};

}  // namespace longhaul
