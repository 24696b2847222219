#include "runtime/jinja/chat_template.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/jinja/template.h"
#include "runtime/tokenizer/tokenizer_json.h"

namespace longhaul {
namespace {

void put(jinja::Map& variables, const std::string& name, jinja::Value value) {
  const auto known = std::find_if(variables.begin(), variables.end(), [&](const auto& v) { return v.first == name; });
  if (known != variables.end()) known->second = std::move(value);
  else variables.emplace_back(name, std::move(value));
}

// The special tokens by name, "bos_token" and so on, as transformers hands them to templates.
jinja::Map special_tokens(const nlohmann::json& config) {
  jinja::Map tokens;
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token")) continue;
    if (value.is_string()) put(tokens, key, value.get<std::string>());
    else if (value.is_object() && value.contains("content") && value["content"].is_string())
      put(tokens, key, value["content"].get<std::string>());
  }
  return tokens;
}

// The template in tokenizer_config.json: a string, or several with names, of which "default" is ours.
std::string template_in(const nlohmann::json& config, const std::string& where) {
  const JsonRef json = JsonRef(config, where)["chat_template"];
  if (json.value().is_string()) return json.string();
  if (json.is_null())
    throw UserError(
        Exit::bad_model,
        "{}: no chat template (chat_template); give --chat-template FILE, or --no-chat-template for a model "
        "that continues text",
        where);
  for (std::size_t i = 0; i < json.array_size(); ++i)
    if (json.element(i)["name"].string() == "default") return json.element(i)["template"].string();
  json.refuse("has no template named \"default\"");
}

struct Source {
  std::string text, where;
  Exit mistake;
};

constexpr std::int64_t kLargestTemplate = 4 << 20;

// The user's own may be a pipe.
Source given(const ChatOptions& options) { return {read_file(options.file), options.file, Exit::usage}; }

Source source_of(const std::filesystem::path& dir, const ChatOptions& options, const nlohmann::json& config) {
  if (!options.file.empty()) return given(options);
  const std::filesystem::path file = dir / "chat_template.jinja", config_file = dir / "tokenizer_config.json";
  if (std::filesystem::exists(file)) return {read_text_file(file, kLargestTemplate), file.string(), Exit::bad_model};
  if (!std::filesystem::exists(config_file))
    throw UserError(
        Exit::bad_model,
        "{}: no chat template (chat_template.jinja or tokenizer_config.json); give --chat-template FILE, or "
        "--no-chat-template for a model that continues text",
        dir.string());
  return {template_in(config, config_file.string()), fmt::format("{}: chat_template", config_file.string()),
          Exit::bad_model};
}

std::tm parse_time(const std::string& text) {
  std::tm time{};
  int end = 0;
  const int read = std::sscanf(text.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d%n", &time.tm_year, &time.tm_mon, &time.tm_mday,
                               &time.tm_hour, &time.tm_min, &time.tm_sec, &end);
  time.tm_year -= 1900;
  --time.tm_mon;
  const std::tm given = time;
  ::timegm(&time);  // fills in the day of the week, and moves a time that does not exist
  auto parts = [](const std::tm& t) {
    return std::array{t.tm_year, t.tm_mon, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec};
  };
  if (read != 6 || static_cast<std::size_t>(end) != text.size() || parts(time) != parts(given))
    throw UserError(Exit::usage, "--now {}: needs a time such as 2026-07-26T12:00:00", text);
  return time;
}

}  // namespace

struct ChatTemplate::Impl {
  Impl(const nlohmann::json& config, const Source& from, const ChatOptions& options)
      : variables(special_tokens(config)), source(from.text, from.where, from.mistake) {
    // transformers always passes these two.
    put(variables, "tools", jinja::None{});
    put(variables, "documents", jinja::None{});
    for (const auto& [name, value] : options.variables) put(variables, name, value);
  }
  jinja::Map variables;
  jinja::Template source;
};

ChatTemplate::ChatTemplate(const std::filesystem::path& dir, const ChatOptions& options) {
  if (options.none) return;
  const nlohmann::json config = read_tokenizer_config(dir);
  impl_ = std::make_unique<Impl>(config, source_of(dir, options, config), options);
}
ChatTemplate::ChatTemplate(const nlohmann::json& config, const std::string& where, const ChatOptions& options) {
  if (options.none) return;
  const Source source = options.file.empty()
                            ? Source{template_in(config, where), where + ": chat_template", Exit::bad_model}
                            : given(options);
  impl_ = std::make_unique<Impl>(config, source, options);
}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

bool ChatTemplate::exists() const { return impl_ != nullptr; }

std::string ChatTemplate::render(const std::vector<Message>& messages, bool add_generation_prompt) const {
  if (!impl_) {
    std::string text;
    for (const Message& message : messages) text += (text.empty() ? "" : "\n\n") + message.content;
    return text;
  }
  jinja::Map variables = impl_->variables;
  jinja::List list;
  for (const Message& message : messages)
    list.push_back(jinja::Map{{"role", message.role}, {"content", message.content}});
  put(variables, "messages", std::move(list));
  put(variables, "add_generation_prompt", add_generation_prompt);
  return impl_->source.render(variables);
}

std::string render_context(const std::filesystem::path& dir, const ChatOptions& options, jinja::Map context,
                           const std::string& now) {
  const Source source = source_of(dir, options, options.file.empty() ? read_tokenizer_config(dir) : nlohmann::json());
  for (const auto& [name, value] : options.variables) put(context, name, value);
  const jinja::Template text(source.text, source.where, source.mistake);
  try {
    return text.render(context, now.empty() ? std::nullopt : std::optional(parse_time(now)));
  } catch (const UserError& error) {
    throw UserError(Exit::usage, "{}", error.what());
  }
}

}  // namespace longhaul
