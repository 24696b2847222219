// The methods of Python's values that a template may call: those that change nothing.
#include <algorithm>
#include <initializer_list>
#include <map>
#include <optional>

#include "runtime/jinja/runtime.h"
#include "runtime/jinja/text.h"

namespace longhaul::jinja {
namespace {

using Call = Function::Call;
using Method = Value (*)(Runtime&, const Value&, Arguments&);
using Methods = std::map<std::string_view, Method>;

const std::string& text_of(const Value& value) { return *value.text(); }

Value strip(Runtime& runtime, const Value& of, Arguments& arguments, bool left, bool right) {
  const auto characters = arguments.text(0, "chars");
  arguments.finish("strip");
  runtime.step(text_of(of).size());
  return runtime.text(std::string(strip_text(text_of(of), characters, left, right)));
}

Value texts(Runtime& runtime, const std::vector<std::string_view>& parts, Sequence::Kind kind = Sequence::list) {
  List list;
  runtime.take(parts.size() * 64);
  for (const std::string_view part : parts) list.push_back(runtime.text(std::string(part)));
  return runtime.sequence(kind, std::move(list));
}

Value split(Runtime& runtime, const Value& of, Arguments& arguments, bool from_right) {
  const auto separator = arguments.text(0, "sep");
  const std::int64_t most = arguments.whole(1, "maxsplit").value_or(-1);
  arguments.finish("split");
  if (separator && separator->empty()) mistake("empty separator");
  runtime.step(text_of(of).size());
  return texts(runtime, split_text(text_of(of), separator, most, from_right));
}

Value partition(Runtime& runtime, const Value& of, Arguments& arguments, bool last) {
  const Value separator = arguments.required(0, "sep");
  arguments.finish("partition");
  if (!separator.text() || separator.text()->empty()) mistake("empty separator");
  const std::string_view text = text_of(of);
  runtime.step(text.size());
  const auto found = last ? find_last_text(text, *separator.text()) : find_text(text, *separator.text());
  if (!found) {
    if (last) return texts(runtime, {"", "", text}, Sequence::tuple);
    return texts(runtime, {text, "", ""}, Sequence::tuple);
  }
  return texts(runtime, {text.substr(0, found->begin), *separator.text(), text.substr(found->end)}, Sequence::tuple);
}

// startswith and endswith: with one text, or a tuple of them.
Value begins(Runtime& runtime, const Value& of, Arguments& arguments, bool ends) {
  const Value what = arguments.required(0, "prefix");
  arguments.finish(ends ? "endswith (with one argument)" : "startswith (with one argument)");
  if (!what.text() && !(what.sequence() && what.sequence()->kind == Sequence::tuple))
    mistake(fmt::format("startswith and endswith need a string or a tuple of strings, not {}", what.type()));
  const List all = what.text() ? List{what} : what.sequence()->elements;
  for (const Value& one : all) {
    if (!one.text()) mistake("startswith and endswith need strings");
    runtime.step(one.text()->size());
    if (ends ? before_suffix(text_of(of), *one.text()).has_value() : after_prefix(text_of(of), *one.text()).has_value())
      return true;
  }
  return false;
}

Value find(Runtime& runtime, const Value& of, Arguments& arguments, bool last, bool must) {
  const Value what = arguments.required(0, "sub");
  const std::int64_t from = arguments.whole(1, "start").value_or(0);
  arguments.finish("find");
  if (!what.text()) mistake("find needs a string");
  if (from != 0) mistake("find with a start is not supported");
  runtime.step(text_of(of).size());
  const auto found = last ? find_last_text(text_of(of), *what.text()) : find_text(text_of(of), *what.text());
  if (!found && must) mistake("substring not found");
  return found ? text_length(std::string_view(text_of(of)).substr(0, found->begin)) : std::int64_t{-1};
}

Value changed_case(Runtime& runtime, const Value& of, Arguments& arguments, Case which) {
  arguments.finish("a method");
  runtime.step(4 * text_of(of).size());
  try {
    return runtime.text(with_case(text_of(of), which));
  } catch (const std::string& character) {
    mistake(fmt::format("the case of {:?} is not supported", character));
  }
}

template <TextClass which>
Value is_class(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("a method");
  runtime.step(4 * text_of(of).size());
  return is_text(text_of(of), which);
}

// isdigit, isnumeric: decimal digits, and for the latter other numbers; which of the others are digits is not known
// here.
Value is_number(Runtime& runtime, const Value& of, Arguments& arguments, bool numeric) {
  arguments.finish("a method");
  runtime.step(4 * text_of(of).size());
  const auto characters = characters_of(text_of(of));
  for (const std::string_view c : characters) {
    if (is_text(c, TextClass::digit)) continue;
    const bool letter = is_text(c, TextClass::alpha), number = !letter && is_text(c, TextClass::alphanumeric);
    if ((numeric ? letter : number) && !is_text(c, TextClass::ascii))
      mistake(fmt::format("whether {:?} is a number is not supported", c));
    if (!number) return false;
  }
  return !characters.empty();
}

// ljust, rjust and center.
Value justify(Runtime& runtime, const Value& of, Arguments& arguments, bool left, bool right) {
  const auto width = arguments.whole(0, "width");
  const auto fill = arguments.text(1, "fillchar").value_or(" ");
  arguments.finish("ljust, rjust or center");
  if (!width) mistake("the argument width is missing");
  if (text_length(fill) != 1) mistake("The fill character must be exactly one character long");
  const std::int64_t missing = std::max<std::int64_t>(std::max<std::int64_t>(*width, 0) - runtime.length(of), 0);
  runtime.take(static_cast<std::size_t>(std::min<std::int64_t>(missing, std::int64_t{1} << 40)) * fill.size());
  // Python puts the odd one to the left when the width is odd.
  const std::int64_t before = left && right ? missing / 2 + (missing & *width & 1) : left ? missing : 0;
  std::string out;
  for (std::int64_t i = 0; i < before; ++i) out += fill;
  out += text_of(of);
  for (std::int64_t i = before; i < missing; ++i) out += fill;
  return runtime.text(std::move(out));
}

Value join(Runtime& runtime, const Value& of, Arguments& arguments) {
  const List parts = runtime.elements(arguments.required(0, "iterable"));
  arguments.finish("join");
  std::string out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].text()) mistake(fmt::format("sequence item {}: expected str instance, {} found", i, parts[i].type()));
    runtime.take(text_of(of).size() + parts[i].text()->size());
    if (i > 0) out += text_of(of);
    out += *parts[i].text();
  }
  return runtime.text(std::move(out));
}

// How often a text that is not empty stands in another.
std::size_t places_of(std::string_view text, std::string_view part) {
  const TextFinder finder(text, part);
  std::size_t places = 0;
  for (std::size_t at = 0; const auto found = finder.next(at); ++places) at = found->end;
  return places;
}

Value replace(Runtime& runtime, const Value& of, Arguments& arguments) {
  const Value from = arguments.required(0, "old"), to = arguments.required(1, "new");
  const std::int64_t most = arguments.whole(2, "count").value_or(-1);
  arguments.finish("replace");
  if (!from.text() || !to.text()) mistake("replace() needs strings");
  runtime.step(text_of(of).size());
  // What will come of it, counted before there is any.
  std::size_t places = 0;
  if (from.text()->empty()) places = static_cast<std::size_t>(runtime.length(of)) + 1;
  else places = places_of(text_of(of), *from.text());
  runtime.take(places * to.text()->size());
  return runtime.text(replace_text(text_of(of), *from.text(), *to.text(), most));
}

Value count(Runtime& runtime, const Value& of, Arguments& arguments) {
  const Value what = arguments.required(0, "sub");
  arguments.finish("count (with one argument)");
  if (of.sequence()) {
    const List& all = of.sequence()->elements;
    return std::int64_t{std::count_if(all.begin(), all.end(), [&](const Value& v) { return runtime.same(v, what); })};
  }
  if (!what.text()) mistake("count needs a string");
  runtime.step(text_of(of).size());
  if (what.text()->empty()) return runtime.length(of) + 1;
  return static_cast<std::int64_t>(places_of(text_of(of), *what.text()));
}

Value index(Runtime& runtime, const Value& of, Arguments& arguments) {
  const Value what = arguments.required(0, "value");
  arguments.finish("index (with one argument)");
  const List& all = of.sequence()->elements;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (runtime.same(all[i], what)) return static_cast<std::int64_t>(i);
  mistake("the value is not in the list");
}

Value remove_affix(Runtime& runtime, const Value& of, Arguments& arguments, bool suffix) {
  const Value what = arguments.required(0, "prefix");
  arguments.finish(suffix ? "removesuffix" : "removeprefix");
  if (!what.text()) mistake("removeprefix and removesuffix need a string");
  std::string_view text = text_of(of);
  if (suffix && !what.text()->empty()) text = text.substr(0, before_suffix(text, *what.text()).value_or(text.size()));
  if (!suffix) text = text.substr(after_prefix(text, *what.text()).value_or(0));
  return runtime.text(std::string(text));
}

const Methods& text_methods() {
  using R = Runtime;
  using V = Value;
  using A = Arguments;
  static const Methods methods = {
      {"strip", [](R& r, const V& v, A& a) { return strip(r, v, a, true, true); }},
      {"lstrip", [](R& r, const V& v, A& a) { return strip(r, v, a, true, false); }},
      {"rstrip", [](R& r, const V& v, A& a) { return strip(r, v, a, false, true); }},
      {"split", [](R& r, const V& v, A& a) { return split(r, v, a, false); }},
      {"rsplit", [](R& r, const V& v, A& a) { return split(r, v, a, true); }},
      {"splitlines",
       [](R& r, const V& v, A& a) {
         const bool keep = a.flag(0, "keepends", false);
         a.finish("splitlines");
         r.step(text_of(v).size());
         return texts(r, split_lines(text_of(v), keep));
       }},
      {"partition", [](R& r, const V& v, A& a) { return partition(r, v, a, false); }},
      {"rpartition", [](R& r, const V& v, A& a) { return partition(r, v, a, true); }},
      {"startswith", [](R& r, const V& v, A& a) { return begins(r, v, a, false); }},
      {"endswith", [](R& r, const V& v, A& a) { return begins(r, v, a, true); }},
      {"find", [](R& r, const V& v, A& a) { return find(r, v, a, false, false); }},
      {"rfind", [](R& r, const V& v, A& a) { return find(r, v, a, true, false); }},
      {"index", [](R& r, const V& v, A& a) { return find(r, v, a, false, true); }},
      {"rindex", [](R& r, const V& v, A& a) { return find(r, v, a, true, true); }},
      {"count", count},
      {"join", join},
      {"replace", replace},
      {"upper", [](R& r, const V& v, A& a) { return changed_case(r, v, a, Case::upper); }},
      {"lower", [](R& r, const V& v, A& a) { return changed_case(r, v, a, Case::lower); }},
      {"swapcase", [](R& r, const V& v, A& a) { return changed_case(r, v, a, Case::swapped); }},
      {"capitalize", [](R& r, const V& v, A& a) { return changed_case(r, v, a, Case::capitalized); }},
      {"title", [](R& r, const V& v, A& a) { return changed_case(r, v, a, Case::title); }},
      {"isupper", is_class<TextClass::upper>},
      {"islower", is_class<TextClass::lower>},
      {"istitle", is_class<TextClass::title>},
      {"isdecimal", is_class<TextClass::digit>},
      {"isalpha", is_class<TextClass::alpha>},
      {"isspace", is_class<TextClass::space>},
      {"isascii", is_class<TextClass::ascii>},
      {"isalnum", is_class<TextClass::alphanumeric>},
      {"isdigit", [](R& r, const V& v, A& a) { return is_number(r, v, a, false); }},
      {"isnumeric", [](R& r, const V& v, A& a) { return is_number(r, v, a, true); }},
      {"ljust", [](R& r, const V& v, A& a) { return justify(r, v, a, false, true); }},
      {"rjust", [](R& r, const V& v, A& a) { return justify(r, v, a, true, false); }},
      {"center", [](R& r, const V& v, A& a) { return justify(r, v, a, true, true); }},
      {"removeprefix", [](R& r, const V& v, A& a) { return remove_affix(r, v, a, false); }},
      {"removesuffix", [](R& r, const V& v, A& a) { return remove_affix(r, v, a, true); }},
      {"format", [](R& r, const V& v, A& a) { return r.text(brace_format(r, text_of(v), a)); }},
  };
  return methods;
}

const Methods& dict_methods() {
  using R = Runtime;
  using V = Value;
  using A = Arguments;
  static const Methods methods = {
      {"items",
       [](R& r, const V& v, A& a) {
         a.finish("items");
         List list;
         for (const auto& [key, value] : v.dict()->items) list.push_back(r.sequence(Sequence::tuple, {key, value}));
         return r.sequence(Sequence::items, std::move(list));
       }},
      {"keys",
       [](R& r, const V& v, A& a) {
         a.finish("keys");
         return r.sequence(Sequence::keys, r.elements(v));
       }},
      {"values",
       [](R& r, const V& v, A& a) {
         a.finish("values");
         List list;
         for (const auto& [key, value] : v.dict()->items) list.push_back(value);
         return r.sequence(Sequence::values, std::move(list));
       }},
      {"get",
       [](R& r, const V& v, A& a) {
         const Value key = a.required(0, "key"), otherwise = a.get(1, "default").value_or(None{});
         a.finish("get");
         r.step(16 * v.dict()->items.size());
         const Value* found = v.dict()->find(key);
         return found ? *found : otherwise;
       }},
      {"copy",
       [](R&, const V& v, A& a) {
         a.finish("copy");
         return v;
       }},
  };
  return methods;
}

const Methods& list_methods() {
  static const Methods methods = {{"count", count}, {"index", index}};
  return methods;
}

bool among(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// The methods of Python's that are not above: those that change their object, which a template may not, and others.
bool is_other_method(const Value& of, std::string_view name) {
  if (of.text())
    return among(name, {"casefold", "encode", "expandtabs", "format_map", "isidentifier", "isprintable", "maketrans",
                        "translate", "zfill"});
  if (of.dict()) return among(name, {"clear", "fromkeys", "pop", "popitem", "setdefault", "update"});
  if (of.sequence() && of.sequence()->kind == Sequence::list)
    return among(name, {"append", "clear", "copy", "extend", "insert", "pop", "remove", "reverse", "sort"});
  if (of.number())
    return among(name, {"real", "imag", "numerator", "denominator", "conjugate", "bit_length", "bit_count", "to_bytes",
                        "from_bytes", "as_integer_ratio", "is_integer", "hex", "fromhex"});
  return false;
}

}  // namespace

std::optional<Call> method_of(const Value& of, std::string_view name) {
  static const Methods none;
  const Methods& methods = of.text()                                                 ? text_methods()
                           : of.dict()                                               ? dict_methods()
                           : of.sequence() && of.sequence()->kind <= Sequence::tuple ? list_methods()
                                                                                     : none;
  if (const auto found = methods.find(name); found != methods.end())
    return
        [of, method = found->second](Runtime& runtime, Arguments& arguments) { return method(runtime, of, arguments); };
  if (!is_other_method(of, name)) return std::nullopt;
  return [what = fmt::format("the method {} of a {} is not supported in chat templates", name, of.type())](
             Runtime&, Arguments&) -> Value { mistake(what); };
}

}  // namespace longhaul::jinja
