// The model's chat template: a list of messages to the prompt's text.
#pragma once
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/jinja/value.h"

namespace longhaul {

struct Message {
  std::string role, content;
};

/// What the user says about the template.
struct ChatOptions {
  std::string file;      // in place of the model's; empty: the model's
  bool none = false;     // the text of the messages, and nothing around it
  jinja::Map variables;  // besides those that transformers passes, or in their place
};

class ChatTemplate {
 public:
  /// From DIR/chat_template.jinja or the chat_template of DIR/tokenizer_config.json (with its bos_token and so on).
  /// Throws UserError{bad_model} when there is none or it uses a construct we do not know, naming it and its line;
  /// UserError{usage} for one that the user has given.
  explicit ChatTemplate(const std::filesystem::path& dir, const ChatOptions& options = {});
  /// The same of a tokenizer_config.json; `where` is for messages.
  ChatTemplate(const nlohmann::json& config, const std::string& where, const ChatOptions& options = {});
  ChatTemplate(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// False: messages are texts, one after the other.
  bool exists() const;
  /// Throws UserError{usage} with the template's own words for raise_exception.
  std::string render(const std::vector<Message>& messages, bool add_generation_prompt) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What the template of DIR, or the user's, makes of the variables of a context; `now`: "2026-07-26T12:00:00", or empty
/// for the time of the call. Throws UserError{usage} for every mistake that rendering finds.
std::string render_context(const std::filesystem::path& dir, const ChatOptions& options, jinja::Map context,
                           const std::string& now);

}  // namespace longhaul
