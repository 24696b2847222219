#include "runtime/jinja/chat_template.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/base/error.h"
#include "paths.h"
#include "runtime/jinja/json.h"
#include "runtime/jinja/template.h"
#include "runtime/jinja/text.h"
#include "tests/support/catch.h"
#include "tests/support/complaint.h"
#include "tests/support/scratch_dir.h"

using namespace longhaul;

namespace {

const std::filesystem::path kData = std::filesystem::path(LONGHAUL_SOURCE_DIR) / "tests/data";

std::string render(const std::string& source, const jinja::Map& variables = {}, const jinja::Limits& limits = {}) {
  return jinja::Template(source, "test").render(variables, {}, limits);
}

// What an error of this kind says; "" when there is none.
std::string refusal(Exit code, const std::string& source, const jinja::Limits& limits = {}) {
  try {
    render(source, {}, limits);
  } catch (const UserError& error) {
    CHECK(error.code == code);
    return error.what();
  }
  return "";
}

struct Folder {
  void put(const char* name, const std::string& text) const { std::ofstream(path / name) << text; }
  test::ScratchDir own;
  std::filesystem::path path = own.path();
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

// tests/data/jinja_cases.json: what Jinja2 3.1.6 makes of jinja_templates.txt (tests/jinja_differential.py --record).
TEST_CASE("every feature of templates does what it does in Jinja2") {
  std::ifstream file(kData / "jinja_cases.json");
  const auto recorded = nlohmann::ordered_json::parse(file);
  const jinja::Map context = jinja::read_context(recorded["context"].dump(), "context", Exit::usage);
  std::tm now{.tm_min = 0, .tm_hour = 12, .tm_mday = 26, .tm_mon = 6, .tm_year = 126, .tm_wday = 0, .tm_yday = 206};
  int texts = 0, errors = 0;
  for (const auto& one : recorded["cases"]) {
    const std::string source = one["template"];
    INFO(source);
    try {
      const std::string text = jinja::Template(source, "test").render(context, now);
      REQUIRE(one.contains("text"));
      CHECK(text == one["text"].get<std::string>());
      ++texts;
    } catch (const UserError& error) {
      INFO(error.what());
      CHECK(one.contains("error"));
      CHECK(std::string(error.what()).find('\n') == std::string::npos);
      ++errors;
    }
  }
  CHECK(texts > 30);
  CHECK(errors > 10);
}

namespace {

/// Renders each template of the folder in each of its cases; returns how many those were.
int render_goldens(const std::filesystem::path& folder) {
  int rendered = 0;
  std::tm now{.tm_hour = 12, .tm_mday = 26, .tm_mon = 6, .tm_year = 126, .tm_wday = 0, .tm_yday = 206};
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".jinja") continue;
    std::ifstream source(entry.path());
    const jinja::Template chat(std::string(std::istreambuf_iterator<char>(source), {}), entry.path().stem().string());
    std::ifstream golden(std::filesystem::path(entry.path()).replace_extension(".golden.json"));
    for (const auto& one : nlohmann::ordered_json::parse(golden)) {
      INFO(entry.path().string() << " " << one["case"]);
      const jinja::Map context = jinja::read_context(one["context"].dump(), "context", Exit::usage);
      if (one.contains("text")) CHECK(chat.render(context, now) == one["text"].get<std::string>());
      else CHECK_THROWS_AS(chat.render(context, now), UserError);
      ++rendered;
    }
  }
  return rendered;
}

}  // namespace

TEST_CASE("real templates render as Jinja2 renders them") { CHECK(render_goldens(kData / "chat_templates") >= 80); }

TEST_CASE("more real templates, which lie beside the repository, render as Jinja2 renders them") {
  const std::filesystem::path folder = std::filesystem::path(LONGHAUL_SOURCE_DIR) / "../shared/golden/templates";
  if (std::filesystem::exists(folder)) CHECK(render_goldens(folder) >= 80);
  else WARN("skipped: no " << folder.lexically_normal().string());
}

TEST_CASE("what the templates cannot do is refused by name and line") {
  const auto refused = [](const std::string& source) { return refusal(Exit::bad_model, source); };
  const std::string end = " is not supported in chat templates";
  CHECK(refused("a\n{% include 'x' %}") == "test:2: {% include %}" + end);
  CHECK(refused("{% import 'x' as y %}") == "test:1: {% import %}" + end);
  CHECK(refused("{% extends 'x' %}") == "test:1: {% extends %}" + end);
  CHECK(refused("{% block x %}{% endblock %}") == "test:1: {% block %}" + end);
  CHECK(refused("{% do x %}") == "test:1: {% do %}" + end);
  CHECK(refused("{{ x | urlize }}") == "test:1: the filter urlize" + end);
  CHECK(refused("{{ x | random }}") == "test:1: the filter random" + end);
  CHECK(refused("{{ x is escaped }}") == "test:1: the test escaped" + end);
  CHECK(refused("{{ 'x'.encode() }}") == "test:1: the method encode of a str" + end);
  CHECK(refused("{{ [1].append(2) }}") == "test:1: the method append of a list" + end);
  CHECK(refused("{{ {}.update({}) }}") == "test:1: the method update of a dict" + end);
  CHECK(refused("{{ lipsum() }}") == "test:1: lipsum" + end);
  CHECK(refused("{{ f(*x) }}") == "test:1: a call with * or **" + end);
  CHECK(refused("{% for x in y recursive %}{% endfor %}") == "test:1: a recursive loop" + end);
  CHECK(refused("{% set x['a'] = 1 %}") == "test:1: {% set %} of an element" + end);
  CHECK(refused("{{ 0x10 }}") == "test:1: the number 0x is not supported");
  CHECK(refused("{{ '\\N{DASH}' }}") == "test:1: the string escape \\N is not supported");
  CHECK(refused("{{ 'ß' | upper }}") == "test:1: the case of \"ß\" is not supported");
  CHECK(refused("{{ ('x' | safe) ~ 'y' }}") == "test:1: the filter safe is supported at the end of a print only");
}

TEST_CASE("mistakes of a template are one clear line") {
  const auto refused = [](const std::string& source) { return refusal(Exit::bad_model, source); };
  CHECK(refused("{% if x %}") == "test:1: {% if %} without {% endif %}");
  CHECK(refused("{% if x %}{% endfor %}") == "test:1: {% if %} without {% endif %}");
  CHECK(refused("x{% endif %}") == "test:1: {% endif %} without its beginning");
  CHECK(refused("{{ 'abc }}") == "test:1: a string that does not end");
  CHECK(refused("{# abc") == "test:1: a comment that does not end");
  CHECK(refused("{% raw %}abc") == "test:1: {% raw %} without {% endraw %}");
  CHECK(refused("{{ a") == "test:1: a tag that does not end with }}");
  CHECK(refused("{{ }}") == "test:1: an expression is missing");
  CHECK(refused("{{ a ; b }}") == "test:1: unexpected \";\"");
  CHECK(refused("{{ (a] }}") == "test:1: unexpected \"]\"");
  CHECK(refused("{% break %}") == "test:1: {% break %} or {% continue %} outside of a loop");
  CHECK(refused("{{ 'a' + 1 }}") == "test:1: unsupported operand type(s) for +: 'str' and 'int'");
  CHECK(refused("\n{{ a.b.c }}") == "test:2: b of something undefined");
  CHECK(refused("{% for x in 5 %}{% endfor %}") == "test:1: 'int' object is not iterable");
  CHECK(refused("{{ 1 // 0 }}") == "test:1: integer division or modulo by zero");
  CHECK(refused("{{ nothing() }}") == "test:1: 'nothing' is undefined");
  CHECK(refused("{{ '\xff' }}") == "test:1: the template is not valid UTF-8");
  CHECK(refusal(Exit::usage, "{{ raise_exception('no\n ' ~ 1) }}") == "test: no\\n 1");
}

TEST_CASE("hostile templates end with an error, soon and without much memory", "[numbers]") {
  // A fraction of what is allowed, and no clock: a sanitizer makes every step slower.
  const jinja::Limits limits{.bytes = 16 << 20, .seconds = 1e9};
  const auto refused = [&](const std::string& source) { return refusal(Exit::bad_model, source, limits); };
  const std::string text = "test:1: the template makes too much text",
                    list = "test:1: the template makes too large a list", deep = "test:1: nested too deeply",
                    slow = "test:1: the template runs too long";
  std::string sum = "{{ 1", nots = "{{ ", ifs, loops;
  for (int i = 0; i < 100000; ++i) sum += "+1", nots += "not ", ifs += "{% if 1 %}";
  for (int i = 0; i < 4; ++i) loops += "{% for x in range(99999) %}";
  CHECK(refused("{{ " + std::string(100000, '(') + "1" + std::string(100000, ')') + " }}") == deep);
  CHECK(refused(sum + " }}") == "test:1: too long an expression");
  CHECK(refused(nots + "1 }}") == deep);
  CHECK(refused(ifs) == deep);
  CHECK(refused("{{ " + std::string(100000, '-') + "1 }}") == deep);
  CHECK(refused(loops + "{{ x }}{% endfor %}{% endfor %}{% endfor %}{% endfor %}") == text);
  CHECK(refused("{% set l = range(99999) | list %}{% for x in l %}{% for y in l %}{% endfor %}{% endfor %}") == text);
  CHECK(refused("{% set l = range(99999) | list %}{{ l | unique | list }}") == slow);
  const std::string sixty = "{% for i in range(60) %}", end = "{% endfor %}{{ n.s }}";
  CHECK(refused("{% set n = namespace(s='abc') %}" + sixty + "{% set n.s = n.s ~ n.s %}" + end) == text);
  CHECK(refused("{% set n = namespace(s=[1]) %}" + sixty + "{% set n.s = n.s + n.s %}" + end) == text);
  CHECK(refused("{% set n = namespace(s=[1]) %}" + sixty + "{% set n.s = [n.s, n.s] %}" + end) == list);
  CHECK(refused("{% set n = namespace(s=[]) %}{% for i in range(999) %}{% set n.s = [n.s] %}" + end) ==
        "test:1: lists are nested too deeply");
  CHECK(refused("{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}") == deep);
  CHECK(refused("{% macro g() %}{{ caller() }}{% endmacro %}{% macro h() %}{% call g() %}{{ h() }}{% endcall %}"
                "{% endmacro %}{{ h() }}") == deep);
  CHECK(refused("{{ range(1000000000) }}").find("Range too big") != std::string::npos);
  CHECK(refused("{{ 'a' * 100000000000 }}") == text);
  CHECK(refused("{{ [1] * 10000000000000 }}") == list);
  CHECK(refused("{{ 'a'.ljust(100000000000) }}") == text);
  CHECK(refused("{{ 'a' | center(100000000000) }}") == text);
  CHECK(refused("{{ range(99999) | list | tojson(separators=['a' * 1000000, ':']) }}") == text);
  CHECK(refused("{{ '" + std::string(300, '{') + "' }}{{ '{0}{0}{0}{0}{0}{0}{0}{0}'.format('a' * 3000000) }}") == text);
  CHECK(refused("{{ ('a' * 10000000)[::1] }}") == text);
  // Of a text in a text, both long and nearly alike.
  CHECK(refused("{{ ('a' * 500000 ~ 'b') in ('a' * 1000000) }}{{ 1 / 0 }}").find("division by zero") !=
        std::string::npos);
  CHECK(refused("{{ 'a' | truncate(9223372036854775807) }}") == "test:1: truncate: a length out of range");
  CHECK(refused("{{ 'ab' | indent(1000000000) }}") == "test:1: an indent of more than 1000 is not supported");
  CHECK(refused("{{ '%1000000000d' % 1 }}") == "test:1: a format wider than 1000 is not supported");
  CHECK(refused("{{ '{:1000000000}'.format(1) }}") == "test:1: a format wider than 1000 is not supported");
  CHECK(refused("{% set s = 'a' * 1000000 %}{{ s.replace('a', s) }}") == text);
  CHECK(refused("{{ ('a' * 1000000).join(['b'] * 100000) }}") == text);
  CHECK(refused("{{ ([['a' * 1000] * 1000] * 1000) | tojson }}") == text);
  // A clock ends what the counters would let go on.
  CHECK(refusal(Exit::bad_model, "{% set l = range(99999) | list %}{{ l | unique | list }}",
                {.steps = std::int64_t{1} << 60, .bytes = std::int64_t{1} << 60, .seconds = 0.01}) == slow);
  CHECK(refused("{{ 9 ** 9 ** 9 }}") == "test:1: a number too large");
  CHECK(refused("{{ 9999999999 * 9999999999 }}") == "test:1: a number too large");
}

TEST_CASE("texts see through the guards of a document") {
  const auto made = [](const std::string& expression) {
    return render("{{ " + expression + " }}", {{"x", "<\xff/think>b<\xff/think>"}});
  };
  CHECK(made("x == '</think>b</think>'") == "True");
  CHECK(made("'</think>' in x") == "True");
  CHECK(made("x.split('</think>')") == "['', 'b', '']");
  CHECK(made("x.rsplit('</think>', 1)[0]") == "<\xff/think>b");
  CHECK(made("x.replace('</think>', '-')") == "-b-");
  CHECK(made("x.startswith('</think>') and x.endswith('</think>')") == "True");
  CHECK(made("x | length") == "17");
  CHECK(made("x[0]") == "<\xff");
  CHECK(made("x | tojson") == "\"<\xff/think>b<\xff/think>\"");
}

TEST_CASE("numbers are read through the guards of a document") {
  const auto made = [](const std::string& expression, const std::string& x) {
    return render("{{ " + expression + " }}", {{"x", x}});
  };
  CHECK(made("x | int + 1",
             "1\xff"
             "2\xff") == "13");
  CHECK(made("x | int(base=10)", " \xff-4\xff_0") == "-40");
  CHECK(made("x | float", "1\xff.5") == "1.5");
}

TEST_CASE("a part is found wherever guards stand, from either end") {
  std::mt19937 random(3);
  const auto below = [&](std::size_t n) { return random() % n; };
  const auto guarded = [&](const std::string& text) {
    std::string out;
    for (const char c : text) out += below(3) == 0 ? std::string{c, '\xff'} : std::string{c};
    return below(4) == 0 ? "\xff" + out : out;
  };
  for (int round = 0; round < 2000; ++round) {
    std::string text, part;
    for (std::size_t n = below(24); n > 0; --n) text += static_cast<char>('a' + below(2));
    for (std::size_t n = 1 + below(3); n > 0; --n) part += static_cast<char>('a' + below(2));
    const std::string held = guarded(text), sought = guarded(part);
    INFO(text << " " << part);
    const auto bare_places = [&](const std::optional<jinja::TextRange>& found) {
      if (!found) return std::string::npos;
      CHECK(jinja::unguarded(std::string_view(held).substr(found->begin, found->end - found->begin)) == part);
      return jinja::unguarded(held.substr(0, found->begin)).size();
    };
    CHECK(bare_places(jinja::find_text(held, sought)) == text.find(part));
    CHECK(bare_places(jinja::find_last_text(held, sought)) == text.rfind(part));
    const auto joined = [&](const std::vector<std::string_view>& parts) {
      std::vector<std::string> bare;
      for (const std::string_view one : parts) bare.push_back(jinja::unguarded(one));
      return bare;
    };
    for (const bool from_right : {false, true})
      CHECK(joined(jinja::split_text(held, sought, 2, from_right)) ==
            joined(jinja::split_text(text, part, 2, from_right)));
  }
}

TEST_CASE("searches in guarded texts and from the end take no quadratic time") {
  const std::string many(1 << 18, 'a');
  for (const std::string& text : {many, "a\xff" + many}) {
    CHECK_FALSE(jinja::find_text(text, many.substr(1 << 17) + "b"));
    CHECK_FALSE(jinja::find_last_text(text, "b" + many.substr(1 << 17)));
    CHECK(jinja::split_text(text, "aa", -1, true).size() > 1 << 16);
  }
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
  const auto refused = [&] { return test::complaint([&] { ChatTemplate chat(folder.path); }); };
  folder.put("chat_template.jinja", "version https://git-lfs.github.com/spec/v1\n");
  CHECK_THAT(refused(), Catch::Matchers::EndsWith("chat_template.jinja: is a Git LFS pointer, not the file: run `git "
                                                  "lfs pull`"));
  folder.put("chat_template.jinja", "<!DOCTYPE html>");
  CHECK_THAT(refused(), test::contains("chat_template.jinja: is a web page: download the file itself"));
  folder.put("chat_template.jinja", std::string((4 << 20) + 1, 'x'));
  CHECK_THAT(refused(), test::contains("chat_template.jinja: 4194305 bytes, more than the 4194304 that"));
  folder.put("chat_template.jinja", "F");
  folder.put("tokenizer_config.json", R"({"bos_token": )");
  CHECK_THROWS_AS(ChatTemplate(folder.path), UserError);
  folder.put("tokenizer_config.json", R"({"bos_token": "<s>"})");
  folder.put("mine.jinja", "{{ bos_token }}{{ thinking }}{{ name }}{{ tools }}");
  const std::string mine = (folder.path / "mine.jinja").string();
  const ChatTemplate given(folder.path, {.file = mine, .variables = {{"thinking", false}, {"name", "x"}}});
  CHECK(given.render({}, true) == "<s>FalsexNone");
  const ChatTemplate none(folder.path, {.none = true});
  CHECK_FALSE(none.exists());
  CHECK(none.render({{"system", "Be brief."}, {"user", "Hi"}}, true) == "Be brief.\n\nHi");
  folder.put("mine.jinja", "{{ 1 +");
  try {
    ChatTemplate(folder.path, {.file = mine});
    FAIL("not refused");
  } catch (const UserError& error) {
    CHECK(error.code == Exit::usage);
  }
}

TEST_CASE("a context renders as it is, and every mistake is the user's") {
  const Folder folder;
  folder.put("chat_template.jinja", "{{ bos_token }}{{ x }}{{ strftime_now('%Y-%m-%d %H:%M') }}");
  folder.put("tokenizer_config.json", R"({"bos_token": "<s>"})");
  const jinja::Map context =
      jinja::read_context(R"({"x": [1, 2.50, null, "é", {"b": 1, "a": true}]})", "c", Exit::usage);
  const std::string now = "2026-07-26T12:00:00";
  CHECK(render_context(folder.path, {}, context, now) == "[1, 2.5, None, 'é', {'b': 1, 'a': True}]2026-07-26 12:00");
  const auto refused = [&](const std::string& source, const std::string& time) -> std::string {
    folder.put("chat_template.jinja", source);
    try {
      render_context(folder.path, {}, context, time);
    } catch (const UserError& error) {
      CHECK(error.code == Exit::usage);
      return error.what();
    }
    return "";
  };
  CHECK_THAT(refused("{{ x + 1 }}", now), Catch::Matchers::EndsWith("for +: 'list' and 'int'"));
  CHECK_THAT(refused("x", "2026-02-30T12:00:00"),
             Catch::Matchers::StartsWith("--now 2026-02-30T12:00:00: needs a time"));
  CHECK_THROWS_AS(jinja::read_context("[1]", "c", Exit::usage), UserError);
  CHECK_THROWS_AS(jinja::read_context("{\"a\": 18446744073709551615}", "c", Exit::usage), UserError);
  CHECK_THROWS_AS(jinja::read_context(std::string(100000, '['), "c", Exit::usage), UserError);
  const jinja::Map variables = jinja::read_variables({"enable_thinking=false", "name=a=b"});
  CHECK(variables[0].second.boolean());
  CHECK(*variables[1].second.text() == "a=b");
  CHECK_THROWS_AS(jinja::read_variables({"name"}), UserError);
  CHECK_THROWS_AS(jinja::read_variables({"name=\xff"}), UserError);
}
