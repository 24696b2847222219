// Values as text: Python's str and repr, and tojson as transformers has it.
#include <algorithm>
#include <cmath>

#include "runtime/jinja/runtime.h"
#include "runtime/jinja/text.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul::jinja {
namespace {

void write_repr(Runtime& runtime, const Value& of, std::string& out) {
  runtime.step();
  const auto list = [&](const List& elements, std::string_view open, std::string_view close) {
    out += open;
    for (std::size_t i = 0; i < elements.size(); ++i) {
      if (i > 0) out += ", ";
      write_repr(runtime, elements[i], out);
    }
    out += close;
  };
  if (of.undefined()) out += "Undefined";
  else if (of.none()) out += "None";
  else if (of.boolean()) out += *of.boolean() ? "True" : "False";
  else if (of.integer()) out += std::to_string(*of.integer());
  else if (of.real()) out += float_text(*of.real());
  else if (of.text()) out += quoted_text(*of.text());
  else if (of.dict()) {
    out += '{';
    for (std::size_t i = 0; i < of.dict()->items.size(); ++i) {
      if (i > 0) out += ", ";
      write_repr(runtime, of.dict()->items[i].first, out);
      out += ": ";
      write_repr(runtime, of.dict()->items[i].second, out);
    }
    out += '}';
  } else if (of.sequence()) {
    const Sequence& s = *of.sequence();
    switch (s.kind) {
      case Sequence::list:
        list(s.elements, "[", "]");
        break;
      case Sequence::tuple:
        list(s.elements, "(", s.elements.size() == 1 ? ",)" : ")");
        break;
      case Sequence::keys:
        list(s.elements, "dict_keys([", "])");
        break;
      case Sequence::values:
        list(s.elements, "dict_values([", "])");
        break;
      case Sequence::items:
        list(s.elements, "dict_items([", "])");
        break;
      case Sequence::range:
        out += fmt::format("range({}, {}", s.range_begin, s.range_end);
        out += s.range_step == 1 ? ")" : fmt::format(", {})", s.range_step);
        break;
      case Sequence::generator:
        mistake("a generator as text is not supported; put |list behind it");
    }
  } else {
    mistake(fmt::format("a {} as text is not supported", of.type()));
  }
}

// json.dumps.
class JsonWriter {
 public:
  struct Style {
    bool ensure_ascii = false, sort_keys = false;
    std::optional<std::string> indent;
    std::string item = ", ", key = ": ";
  };
  JsonWriter(Runtime& runtime, Style style) : runtime_(runtime), style_(std::move(style)) {}

  std::string run(const Value& of) {
    write(of, 0);
    return std::move(out_);
  }

 private:
  void write(const Value& of, int level) {
    runtime_.step();
    if (of.none()) out_ += "null";
    else if (of.boolean()) out_ += *of.boolean() ? "true" : "false";
    else if (of.integer()) out_ += std::to_string(*of.integer());
    else if (of.real()) number(*of.real());
    else if (of.text()) string(*of.text());
    else if (of.dict()) dict(*of.dict(), level);
    else if (of.sequence() && of.sequence()->kind <= Sequence::tuple) list(of.sequence()->elements, level);
    else mistake(fmt::format("Object of type {} is not JSON serializable", of.type()));
  }

  void number(double value) {
    if (std::isnan(value)) out_ += "NaN";
    else if (std::isinf(value)) out_ += value < 0 ? "-Infinity" : "Infinity";
    else out_ += float_text(value);
  }

  void line(int level) {
    if (!style_.indent) return;
    runtime_.step(style_.indent->size() * static_cast<std::size_t>(level));
    runtime_.take(style_.indent->size() * static_cast<std::size_t>(level));
    out_ += '\n';
    for (int i = 0; i < level; ++i) out_ += *style_.indent;
  }

  void separate(const std::string& separator) {
    runtime_.take(separator.size());
    out_ += separator;
  }

  void list(const List& elements, int level) {
    if (elements.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    for (std::size_t i = 0; i < elements.size(); ++i) {
      if (i > 0) separate(style_.item);
      line(level + 1);
      write(elements[i], level + 1);
    }
    line(level);
    out_ += ']';
  }

  void dict(const Dict& dict, int level) {
    if (dict.items.empty()) {
      out_ += "{}";
      return;
    }
    Items items = dict.items;
    if (style_.sort_keys)
      std::stable_sort(items.begin(), items.end(),
                       [&](const auto& a, const auto& b) { return runtime_.before(a.first, b.first); });
    out_ += '{';
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) separate(style_.item);
      line(level + 1);
      key(items[i].first);
      separate(style_.key);
      write(items[i].second, level + 1);
    }
    line(level);
    out_ += '}';
  }

  void key(const Value& of) {
    if (of.text()) return string(*of.text());
    if (!of.none() && !of.number())
      mistake(fmt::format("keys must be str, int, float, bool or None, not {}", of.type()));
    out_ += '"';
    write(of, 0);
    out_ += '"';
  }

  void string(std::string_view text) {
    runtime_.step(text.size());
    out_ += '"';
    for (std::size_t at = 0; at < text.size();) {
      const char c = text[at];
      const std::string_view character = c == Tokenizer::kSpecialGuard ? text.substr(at, 1) : character_at(text, at);
      at += character.size();
      if (c == '"' || c == '\\') (out_ += '\\') += c;
      else if (c == '\n') out_ += "\\n";
      else if (c == '\r') out_ += "\\r";
      else if (c == '\t') out_ += "\\t";
      else if (c == '\b') out_ += "\\b";
      else if (c == '\f') out_ += "\\f";
      else if (static_cast<unsigned char>(c) < 0x20) out_ += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
      else if (!style_.ensure_ascii || c == 0x7f || !(c & 0x80) || c == Tokenizer::kSpecialGuard) out_ += character;
      else ascii(utf8_code_point(character));
    }
    out_ += '"';
  }

  void ascii(std::uint32_t code) {
    if (code >= 0x10000) {
      code -= 0x10000;
      out_ += fmt::format("\\u{:04x}", 0xd800 + (code >> 10));
      code = 0xdc00 + (code & 0x3ff);
    }
    out_ += fmt::format("\\u{:04x}", code);
  }

  Runtime& runtime_;
  Style style_;
  std::string out_;
};

}  // namespace

std::string Runtime::str(const Value& of) {
  if (of.text()) return *of.text();
  if (of.undefined()) return "";
  return repr(of);
}

std::string Runtime::repr(const Value& of) {
  step(of.extent().size());
  take(of.extent().size());
  std::string out;
  write_repr(*this, of, out);
  return out;
}

Value to_json(Runtime& runtime, const Value& of, Arguments& arguments) {
  JsonWriter::Style style;
  style.ensure_ascii = arguments.flag(0, "ensure_ascii", false);
  if (const auto indent = arguments.get(1, "indent"); indent && !indent->none()) {
    if (const auto width = indent->whole()) {
      if (*width > 1000) mistake("an indent of more than 1000 is not supported");
      style.indent = std::string(static_cast<std::size_t>(std::max<std::int64_t>(*width, 0)), ' ');
    } else if (indent->text()) {
      style.indent = *indent->text();
    } else {
      mistake("the argument indent must be a number or a string");
    }
    style.item.assign(1, ',');
  }
  if (const auto separators = arguments.get(2, "separators"); separators && !separators->none()) {
    const List pair = runtime.elements(*separators);
    if (pair.size() != 2 || !pair[0].text() || !pair[1].text()) mistake("separators must be two strings");
    style.item = *pair[0].text();
    style.key = *pair[1].text();
  }
  style.sort_keys = arguments.flag(3, "sort_keys", false);
  arguments.finish("tojson");
  runtime.step(of.extent().size());
  runtime.take(of.extent().size());
  return runtime.text(JsonWriter(runtime, std::move(style)).run(of));
}

}  // namespace longhaul::jinja
