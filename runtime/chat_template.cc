#include "runtime/chat_template.h"

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "runtime/jinja.h"
#include "runtime/json_file.h"
#include "runtime/tokenizer_json.h"

namespace longhaul {
namespace {

// The special tokens by name, "bos_token" and so on, as transformers hands them to templates.
jinja::Map special_tokens(const nlohmann::json& config) {
  jinja::Map tokens;
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token")) continue;
    if (value.is_string()) tokens[key] = value.get<std::string>();
    else if (value.is_object() && value.contains("content") && value["content"].is_string())
      tokens[key] = value["content"].get<std::string>();
  }
  return tokens;
}

jinja::Map variables_of(const nlohmann::json& config, const std::string& where) {
  jinja::Map variables = special_tokens(JsonRef(config, where).object());
  // transformers always passes these two.
  variables.emplace("tools", jinja::None{});
  variables.emplace("documents", jinja::None{});
  return variables;
}

// The template in tokenizer_config.json: a string, or several with names, of which "default" is ours.
std::string template_in(const nlohmann::json& config, const std::string& where) {
  const JsonRef json = JsonRef(config, where)["chat_template"];
  if (json.value().is_string()) return json.string();
  if (json.is_null()) throw UserError(Exit::bad_model, "{}: no chat template (chat_template)", where);
  for (std::size_t i = 0; i < json.array_size(); ++i)
    if (json.element(i)["name"].string() == "default") return json.element(i)["template"].string();
  json.refuse("has no template named \"default\"");
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Map variables;
  jinja::Template source;
};

ChatTemplate::ChatTemplate(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / "chat_template.jinja", config_file = dir / "tokenizer_config.json";
  const bool own_file = std::filesystem::exists(file), has_config = std::filesystem::exists(config_file);
  if (!own_file && !has_config)
    throw UserError(Exit::bad_model, "{}: no chat template (chat_template.jinja or tokenizer_config.json)",
                    dir.string());
  const nlohmann::json config = has_config ? read_json_file(config_file) : nlohmann::json::object();
  jinja::Map variables = variables_of(config, config_file.string());
  const std::string where = own_file ? file.string() : fmt::format("{}: chat_template", config_file.string());
  const std::string text = own_file ? read_file(file) : template_in(config, config_file.string());
  impl_ = std::make_unique<Impl>(Impl{std::move(variables), jinja::Template(text, where)});
}
ChatTemplate::ChatTemplate(const nlohmann::json& config, const std::string& where)
    : impl_(std::make_unique<Impl>(
          Impl{variables_of(config, where), jinja::Template(template_in(config, where), where + ": chat_template")})) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

std::string ChatTemplate::render(const std::vector<Message>& messages, bool add_generation_prompt) const {
  jinja::Map variables = impl_->variables;
  jinja::List list;
  for (const Message& message : messages)
    list.push_back(jinja::Map{{"role", message.role}, {"content", message.content}});
  variables.insert_or_assign("messages", std::move(list));
  variables.insert_or_assign("add_generation_prompt", add_generation_prompt);
  return impl_->source.render(std::move(variables));
}

}  // namespace longhaul
