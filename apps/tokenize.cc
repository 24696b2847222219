#include "apps/tokenize.h"

#include <unistd.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "runtime/checkpoint/model_source.h"
#include "runtime/jinja/chat_template.h"
#include "runtime/jinja/json.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
namespace {

using Json = nlohmann::json;

struct TokenizeOptions {
  std::string model, input;
  std::string render, now, chat_template;
  std::vector<std::string> template_vars;
  bool no_special = false, decode = false;
};

struct Input {
  std::string name, text;
};

Input read_input(const std::string& file) {
  if (!file.empty() && file != "-") return {file, read_file(file)};
  return {"stdin", read_file(STDIN_FILENO, "stdin")};
}

void for_each_line(std::string_view text, const std::function<void(std::string_view, std::size_t)>& visit) {
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) visit(line, number);
    text.remove_prefix(std::min(line.size() + 1, text.size()));
  }
}

// Every line that is not empty is a JSON object: a text that only begins like JSONL is a text.
bool is_jsonl(std::string_view text) {
  bool some = false, all = true;
  for_each_line(text, [&](std::string_view line, std::size_t) {
    some = true;
    all = all && line[line.find_first_not_of(" \t\r")] == '{' && Json::accept(line);
  });
  return some && all;
}

// The member `key` of the object in a line; the caller says what it must hold.
Json member_of(std::string_view line, const char* key, const std::string& where) {
  Json object = Json::parse(line, nullptr, false);
  if (!object.is_object()) throw UserError(Exit::io, "{}: not a JSON object", where);
  const auto found = object.find(key);
  return found == object.end() ? Json() : std::move(*found);
}

void print_line(const Json& record) { std::cout << record.dump() << '\n'; }

void encode(const Tokenizer& tokenizer, const Input& input, bool with_template) {
  const auto print_ids = [&](std::string_view text, const std::string& where) {
    // Checked here and not left to encode(), which lets the guard byte 0xFF pass.
    if (const std::size_t bad = find_invalid_utf8(text); bad != std::string_view::npos)
      throw UserError(Exit::io, "{}: not valid UTF-8 at byte {}", where, bad);
    print_line({{"ids", tokenizer.encode(text, with_template)}});
  };
  if (!is_jsonl(input.text)) return print_ids(input.text, input.name);
  for_each_line(input.text, [&](std::string_view line, std::size_t number) {
    const std::string where = fmt::format("{}:{}", input.name, number);
    const Json text = member_of(line, "text", where);
    if (!text.is_string()) throw UserError(Exit::io, "{}: needs {{\"text\": \"...\"}}", where);
    print_ids(text.get_ref<const std::string&>(), where);
  });
}

void decode(const Tokenizer& tokenizer, const Input& input) {
  for_each_line(input.text, [&](std::string_view line, std::size_t number) {
    const std::string where = fmt::format("{}:{}", input.name, number);
    const Json list = member_of(line, "ids", where);
    if (!list.is_array()) throw UserError(Exit::io, "{}: needs {{\"ids\": [...]}}", where);
    std::vector<std::int32_t> ids;
    for (const Json& id : list) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= static_cast<std::uint64_t>(tokenizer.vocab_size()))
        throw UserError(Exit::io, "{}: {} is not a token id (0 to {})", where, id.dump(), tokenizer.vocab_size() - 1);
      ids.push_back(id.get<std::int32_t>());
    }
    print_line({{"text", replace_invalid_utf8(tokenizer.decode(ids, /*skip_special=*/false))}});
  });
}

void render(const TokenizeOptions& options) {
  const ChatOptions chat{.file = options.chat_template, .variables = jinja::read_variables(options.template_vars)};
  ModelSource{options.model};  // of a folder only what lies in it is opened
  const Input context = read_input(options.render);
  std::cout << render_context(options.model, chat, jinja::read_context(context.text, context.name, Exit::usage),
                              options.now);
}

void tokenize(const TokenizeOptions& options) {
  if (!options.render.empty()) return render(options);
  if (!options.now.empty() || !options.chat_template.empty() || !options.template_vars.empty())
    throw UserError(Exit::usage, "--chat-template, --template-var and --now are of --render");
  const Tokenizer tokenizer = ModelSource(options.model).tokenizer();
  const Input input = read_input(options.input);
  options.decode ? decode(tokenizer, input) : encode(tokenizer, input, !options.no_special);
}

}  // namespace

void register_tokenize(CLI::App& parent) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* verb = parent.add_subcommand("tokenize", "Turn text into token ids, or ids into text");
  verb->add_option("--model", options->model, "Model folder; only its tokenizer, or its chat template, is read")
      ->required();
  verb->add_option("--input", options->input,
                   "File to read, '-' for stdin (default): one text, or JSONL, {\"text\": \"...\"} in every line");
  verb->add_flag("--no-special", options->no_special,
                 "Leave out the tokens that the tokenizer puts around a text, such as BOS");
  verb->add_flag("--decode", options->decode,
                 "The other way: JSONL with {\"ids\": [...]} in, {\"text\": \"...\"} out; special tokens are kept");
  verb->add_option("--render", options->render,
                   "Print what the chat template makes of a context, and nothing else: a JSON file with its variables "
                   "(messages, add_generation_prompt, ...), '-' for stdin");
  verb->add_option("--chat-template", options->chat_template, "With --render: a Jinja file in place of the model's");
  verb->add_option("--template-var", options->template_vars, "With --render: NAME=VALUE, in place of the context's");
  verb->add_option("--now", options->now, "With --render: the clock of strftime_now, such as 2026-07-26T12:00:00");
  verb->footer(
      "Examples:\n"
      "  echo -n 'Call me Ishmael.' | longhaul tokenize --model models/demo-7m\n"
      "  longhaul tokenize --model models/demo-7m --input book.txt | longhaul tokenize --model models/demo-7m "
      "--decode\n"
      "  longhaul tokenize --model models/demo-7m --render context.json");
  verb->callback([options] { tokenize(*options); });
}

}  // namespace longhaul
