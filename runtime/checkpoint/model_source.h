// What --model names: a folder in the Hugging Face layout, a GGUF file, or a folder that holds one such file and no
// config.json. Gives what is read from it, checked; a GGUF file's metadata is turned into the documents that such a
// folder has.
#pragma once
#include <filesystem>
#include <memory>
#include <string>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/jinja/chat_template.h"
#include "runtime/model/model_config.h"
#include "runtime/tokenizer/tokenizer.h"

namespace longhaul {

class ModelSource {
 public:
  /// Throws UserError{bad_model} where there is neither, and where one of the folder's files is a link that leads out
  /// of it: only what lies in the folder, or in the blobs of the hub cache that it is part of, is opened.
  explicit ModelSource(const std::string& model);

  const std::string& name() const { return name_; }  // of the folder or file
  const std::string& where() const { return where_; }
  ModelConfig config() const;
  GenerationDefaults generation() const;
  Tokenizer tokenizer() const;
  ChatTemplate chat(const ChatOptions& options) const;
  Checkpoint weights() const;
  /// Quantised ones, as far as a config tells, whose files are there.
  bool has_packed_weights() const;

 private:
  const nlohmann::json& folder_config() const;
  std::string where_, name_;
  std::shared_ptr<const Gguf> gguf_;  // null: a folder
  mutable nlohmann::json config_;     // of a folder: its config.json, read when it is asked for
};

}  // namespace longhaul
