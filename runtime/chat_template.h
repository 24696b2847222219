// The model's chat template: a list of messages to the prompt's text.
#pragma once
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

struct Message {
  std::string role, content;
};

class ChatTemplate {
 public:
  /// From DIR/chat_template.jinja or the chat_template of DIR/tokenizer_config.json (with its bos_token and so on).
  /// Throws UserError{bad_model} when there is none or it uses a construct we do not know, naming it and its line.
  explicit ChatTemplate(const std::filesystem::path& dir);
  /// The same of a tokenizer_config.json; `where` is for messages.
  ChatTemplate(const nlohmann::json& config, const std::string& where);
  ChatTemplate(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// Throws UserError{usage} with the template's own words for raise_exception.
  std::string render(const std::vector<Message>& messages, bool add_generation_prompt) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul
