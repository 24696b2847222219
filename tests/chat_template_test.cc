#include "runtime/chat_template.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/base/error.h"
#include "paths.h"
#include "runtime/jinja.h"
#include "tests/support/catch.h"

using namespace longhaul;

namespace {

const std::filesystem::path kData = std::filesystem::path(LONGHAUL_SOURCE_DIR) / "tests/data";

std::string render(const std::string& source, jinja::Map variables = {}) {
  return jinja::Template(source, "test").render(std::move(variables));
}

// What an error of this kind says; "" when there is none.
std::string refusal(Exit code, const std::string& source) {
  try {
    render(source);
  } catch (const UserError& error) {
    CHECK(error.code == code);
    return error.what();
  }
  return "";
}

struct Folder {
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  void put(const char* name, const std::string& text) const { std::ofstream(path / name) << text; }
  std::filesystem::path path = std::filesystem::temp_directory_path() / "longhaul-chat-template-test";
};

}  // namespace

TEST_CASE("the bundled chat template renders as the model was trained") {
  const ChatTemplate chat(kData / "longbook-tokenizer");
  CHECK(chat.render({{"user", "Hi"}}, true) == "<|begin_of_text|><|user|>Hi<|assistant|>");
  CHECK(chat.render({{"user", "Hi"}, {"assistant", "Yo"}, {"user", "Bye"}}, false) ==
        "<|begin_of_text|><|user|>Hi<|assistant|>Yo<|end|><|user|>Bye");
  CHECK(chat.render({}, true) == "<|begin_of_text|><|assistant|>");
  try {
    chat.render({{"system", "x"}}, true);
    FAIL("the template refuses this role");
  } catch (const UserError& error) {
    CHECK(error.code == Exit::usage);
    CHECK(std::string(error.what()).find("only the roles user and assistant are known") != std::string::npos);
  }
}

// tests/data/templates.json: what Jinja2 3.1.6 gives with the settings of transformers.
TEST_CASE("templates render as Jinja2 renders them") {
  const auto recorded = nlohmann::json::parse(std::ifstream(kData / "templates.json"));
  jinja::List messages;
  for (const auto& message : recorded["messages"])
    messages.push_back(
        jinja::Map{{"role", message["role"].get<std::string>()}, {"content", message["content"].get<std::string>()}});
  for (const auto& one : recorded["cases"]) {
    const std::string source = one["template"];
    INFO(source);
    CHECK(render(source, {{"messages", messages},
                          {"add_generation_prompt", one["add_generation_prompt"].get<bool>()},
                          {"bos_token", "<|begin_of_text|>"},
                          {"eos_token", "<|end_of_text|>"},
                          {"pad_token", "<|end_of_text|>"},
                          {"tools", jinja::None{}},
                          {"documents", jinja::None{}}}) == one["text"].get<std::string>());
  }
}

TEST_CASE("what the templates cannot do is refused by name and line") {
  const auto refused = [](const std::string& source) { return refusal(Exit::bad_model, source); };
  CHECK(refused("a\n{% macro f() %}{% endmacro %}") == "test:2: {% macro %} is not supported in chat templates");
  CHECK(refused("{{ x | tojson }}") == "test:1: the filter tojson is not supported in chat templates");
  CHECK(refused("{{ x is mapping }}") == "test:1: the test mapping is not supported in chat templates");
  CHECK(refused("{{ x.strip() }}") == "test:1: the call strip() is not supported in chat templates");
  CHECK(refused("\n\n{{ strftime_now('%d') }}") ==
        "test:3: the call strftime_now() is not supported in chat templates");
  CHECK(refused("{{ messages[1:] }}") == "test:1: a slice is not supported in chat templates");
  CHECK(refused("{{ {'a': 1} }}") == "test:1: \"{\" here is not supported in chat templates");
  CHECK(refused("{{ 1.5 }}").find("1... is not supported") != std::string::npos);
  CHECK(refused("{% set ns.x = 1 %}") == "test:1: {% set ns. ... %} is not supported in chat templates");
  CHECK(refused("{% for a, b in c %}{% endfor %}") ==
        "test:1: a for loop over several variables is not supported in chat templates");
  CHECK(refused("{% for a in b if c %}{% endfor %}") ==
        "test:1: \"if\" in a for loop is not supported in chat templates");
  CHECK(refused("{{ 1 < 2 < 3 }}") == "test:1: a chain of comparisons is not supported in chat templates");
}

TEST_CASE("mistakes of a template are one clear line") {
  const auto refused = [](const std::string& source) { return refusal(Exit::bad_model, source); };
  CHECK(refused("{% if x %}") == "test:1: {% if %} without {% endif %}");
  CHECK(refused("{% if x %}{% endfor %}") == "test:1: {% if %} without {% endif %}");
  CHECK(refused("x{% endif %}") == "test:1: {% endif %} without its beginning");
  CHECK(refused("{{ 'abc }}") == "test:1: a string that does not end");
  CHECK(refused("{# abc") == "test:1: a comment that does not end");
  CHECK(refused("{{ a") == "test:1: a tag that does not end with }}");
  CHECK(refused("{{ }}") == "test:1: an expression is missing");
  CHECK(refused("{{ 'a' + 1 }}") == "test:1: a string + a number has no meaning");
  CHECK(refused("{{ a.b.c }}") == "test:1: b of something undefined");
  CHECK(refused("{% for x in 'abc' %}{% endfor %}") == "test:1: cannot loop over a string");
  CHECK(refused("{{ 1 // 0 }}") == "test:1: division by 0");
  CHECK(refused("{{ [1] }}") == "test:1: a list as text is not supported in chat templates");
  CHECK(refused("{{ 'ä' | upper }}") == "test:1: the filter upper is supported for ASCII only");
  CHECK(refusal(Exit::usage, "{{ raise_exception('no ' ~ 1) }}") == "test: no 1");
}

TEST_CASE("hostile templates end with an error, not with the process") {
  CHECK(refusal(Exit::bad_model, "{{ " + std::string(100000, '(') + " }}") == "test:1: nested too deeply");
  std::string sum = "{{ 1", nots = "{{ ", ifs;
  for (int i = 0; i < 100000; ++i) sum += "+1", nots += "not ", ifs += "{% if 1 %}";
  CHECK(refusal(Exit::bad_model, sum + " }}") == "test:1: too long an expression");
  CHECK(refusal(Exit::bad_model, nots + "1 }}") == "test:1: nested too deeply");
  CHECK(refusal(Exit::bad_model, ifs) == "test:1: nested too deeply");
  std::string list = "{% set l = [0";
  for (int i = 0; i < 200; ++i) list += ",1";
  list += "] %}";
  for (int i = 0; i < 6; ++i) list += "{% for x in l %}";
  list += "x";
  for (int i = 0; i < 6; ++i) list += "{% endfor %}";
  CHECK(refusal(Exit::bad_model, list) == "test:1: the template runs too long");
  CHECK(refusal(Exit::bad_model, "{{ 9999999999 * 9999999999 }}") == "test:1: a number too large");
}

TEST_CASE("trim sees through the guards of a document") {
  const auto trimmed = [](const std::string& text) {
    return jinja::Template("{{ x | trim }}", "test").render({{"x", text}});
  };
  CHECK(trimmed(" \xff\u3000a b\xff \xff") == "a b\xff");
  CHECK(trimmed("\xff") == "");
  CHECK(trimmed("<\xff|end|>") == "<\xff|end|>");
}

TEST_CASE("where a chat template is found") {
  const Folder folder;
  CHECK_THROWS_AS(ChatTemplate(folder.path), UserError);
  folder.put("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": null})");
  CHECK_THROWS_AS(ChatTemplate(folder.path), UserError);
  folder.put("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "chat_template": [
      {"name": "tool_use", "template": "{{ x | tojson }}"}, {"name": "default", "template": "{{ bos_token }}D"}]})");
  CHECK(ChatTemplate(folder.path).render({}, true) == "<s>D");
  folder.put("chat_template.jinja", "{{ bos_token }}{{ eos_token }}F");
  CHECK(ChatTemplate(folder.path).render({}, true) == "<s>F");
  folder.put("tokenizer_config.json", R"({"bos_token": )");
  CHECK_THROWS_AS(ChatTemplate(folder.path), UserError);
}
