// The filters of Jinja2 that templates of chats use.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "runtime/jinja_runtime.h"
#include "runtime/jinja_text.h"

namespace longhaul::jinja {
namespace {

using Filter = Value (*)(Runtime&, const Value&, Arguments&);

Value method(Runtime& runtime, const Value& of, std::string_view name, Arguments& arguments) {
  return (*method_of(runtime.text(runtime.str(of)), name))(runtime, arguments);
}

template <char const* name>
Value as_method(Runtime& runtime, const Value& of, Arguments& arguments) {
  return method(runtime, of, name, arguments);
}
constexpr char kStrip[] = "strip", kUpper[] = "upper", kLower[] = "lower", kCapitalize[] = "capitalize";

// Members of members, "a.b.0".
Value member(Runtime& runtime, Value of, const Value& path) {
  if (path.whole()) return runtime.item(of, path);
  const std::string names = runtime.str(path);
  for (const std::string_view part : split_text(names, ".", -1, false)) {
    const bool number = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    of = runtime.item(of, number ? Value(std::int64_t{std::stol(std::string(part))}) : Value(std::string(part)));
  }
  return of;
}

// What sort, unique, min and max compare: the value or a member, in lower case unless case counts.
Value key_of(Runtime& runtime, const Value& of, const std::optional<Value>& attribute, bool case_sensitive) {
  Value value = attribute && !attribute->none() ? member(runtime, of, *attribute) : of;
  Arguments none;
  return !case_sensitive && value.text() ? method(runtime, value, "lower", none) : value;
}

Value default_filter(Runtime&, const Value& of, Arguments& arguments) {
  const Value otherwise = arguments.get(0, "default_value").value_or("");
  const bool truth = arguments.flag(1, "boolean", false);
  arguments.finish("default");
  return of.undefined() || (truth && !of.truth()) ? otherwise : of;
}

Value length(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("length");
  return runtime.length(of);
}

Value string(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("string");
  return runtime.text(runtime.str(of));
}

Value list(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("list");
  return runtime.sequence(Sequence::list, runtime.elements(of));
}

Value items(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("items");
  List list;
  if (!of.undefined()) {
    if (!of.dict()) mistake("Can only get item pairs from a mapping.");
    for (const auto& [key, value] : of.dict()->items) list.push_back(runtime.sequence(Sequence::tuple, {key, value}));
  }
  return runtime.sequence(Sequence::generator, std::move(list));
}

Value first(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("first");
  const List all = runtime.elements(of);
  return all.empty() ? Value() : all.front();
}

Value last(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("last");
  if (of.sequence() && of.sequence()->kind == Sequence::generator) mistake("'generator' object is not reversible");
  const List all = runtime.elements(of);
  return all.empty() ? Value() : all.back();
}

Value join(Runtime& runtime, const Value& of, Arguments& arguments) {
  const Value between = arguments.get(0, "d").value_or("");
  const auto attribute = arguments.get(1, "attribute");
  arguments.finish("join");
  const std::string glue = runtime.str(between);
  std::string out;
  bool some = false;
  for (const Value& element : runtime.elements(of)) {
    const std::string part =
        runtime.str(attribute && !attribute->none() ? member(runtime, element, *attribute) : element);
    runtime.take(part.size() + glue.size());
    if (std::exchange(some, true)) out += glue;
    out += part;
  }
  return runtime.text(std::move(out));
}

Value replace(Runtime& runtime, const Value& of, Arguments& arguments) {
  Arguments inner;
  inner.positional = {runtime.text(runtime.str(arguments.required(0, "old"))),
                      runtime.text(runtime.str(arguments.required(1, "new")))};
  if (const auto count = arguments.get(2, "count"); count && !count->none()) inner.positional.push_back(*count);
  arguments.finish("replace");
  return method(runtime, of, "replace", inner);
}

// Jinja2's own: words begin after blanks, brackets and -.
Value title(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("title");
  const std::string text = runtime.str(of);
  std::string out;
  bool inside = false;
  for (const std::string_view character : characters_of(text)) {
    Arguments none;
    const bool between =
        std::string_view("-({[<").find(character[0]) != std::string_view::npos || is_text(character, TextClass::space);
    out += *method(runtime, std::string(character), inside && !between ? "lower" : "upper", none).text();
    inside = !between;
  }
  return runtime.text(std::move(out));
}

Value indent(Runtime& runtime, const Value& of, Arguments& arguments) {
  const Value width = arguments.get(0, "width").value_or(std::int64_t{4});
  const bool also_first = arguments.flag(1, "first", false), blank = arguments.flag(2, "blank", false);
  arguments.finish("indent");
  if (!of.text()) mistake(fmt::format("indent needs a string, not {}", of.type()));
  if (width.whole() && *width.whole() > 1000) mistake("an indent of more than 1000 is not supported");
  const std::string by = width.text() ? *width.text()
                         : width.whole()
                             ? std::string(static_cast<std::size_t>(std::max<std::int64_t>(*width.whole(), 0)), ' ')
                             : (mistake("the argument width must be a number or a string"), "");
  const std::string whole = *of.text() + "\n";
  runtime.step(whole.size());
  std::string out = also_first ? by : "";
  bool some = false;
  for (const std::string_view line : split_lines(whole, false)) {
    runtime.take(line.size() + by.size() + 1);
    if (some) {
      out += '\n';
      if (blank || !line.empty()) out += by;
    }
    out += line;
    some = true;
  }
  return runtime.text(std::move(out));
}

Value truncate(Runtime& runtime, const Value& of, Arguments& arguments) {
  const std::int64_t most = arguments.whole(0, "length").value_or(255);
  const bool kill = arguments.flag(1, "killwords", false);
  const std::string end = arguments.text(2, "end").value_or("...");
  const std::int64_t leeway = arguments.whole(3, "leeway").value_or(5);
  arguments.finish("truncate");
  if (!of.text()) mistake(fmt::format("truncate of a {} is not supported", of.type()));
  const std::string& text = *of.text();
  const std::int64_t keep = most - text_length(end);
  if (keep < 0 || leeway < 0) mistake("truncate is too short for its end");
  runtime.step(text.size());
  const auto characters = characters_of(text);
  if (static_cast<std::int64_t>(characters.size()) <= most + leeway) return runtime.text(text);
  std::string_view head(text.data(),
                        static_cast<std::size_t>(characters[static_cast<std::size_t>(keep)].data() - text.data()));
  if (!kill)
    if (const auto space = find_last_text(head, " ")) head = head.substr(0, space->begin);
  return runtime.text(std::string(head) + end);
}

Value reverse(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("reverse");
  const bool was_generator = of.sequence() && of.sequence()->kind == Sequence::generator;
  List all = runtime.elements(of);
  std::reverse(all.begin(), all.end());
  if (!of.text()) return runtime.sequence(was_generator ? Sequence::list : Sequence::generator, std::move(all));
  std::string out;
  for (const Value& character : all) out += *character.text();
  return runtime.text(std::move(out));
}

Value sort(Runtime& runtime, const Value& of, Arguments& arguments) {
  const bool descending = arguments.flag(0, "reverse", false), with_case = arguments.flag(1, "case_sensitive", false);
  const auto attribute = arguments.get(2, "attribute");
  arguments.finish("sort");
  if (attribute && attribute->text() && attribute->text()->find(',') != std::string::npos)
    mistake("sort by several attributes is not supported");
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& element : runtime.elements(of))
    keyed.emplace_back(key_of(runtime, element, attribute, with_case), element);
  // Equal ones keep their order, also when reversed, as in Python.
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return descending ? runtime.before(b.first, a.first) : runtime.before(a.first, b.first);
  });
  List all;
  for (auto& [key, element] : keyed) all.push_back(std::move(element));
  return runtime.sequence(Sequence::list, std::move(all));
}

Value unique(Runtime& runtime, const Value& of, Arguments& arguments) {
  const bool with_case = arguments.flag(0, "case_sensitive", false);
  const auto attribute = arguments.get(1, "attribute");
  arguments.finish("unique");
  List keys, all;
  for (const Value& element : runtime.elements(of)) {
    const Value key = key_of(runtime, element, attribute, with_case);
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& known) { return runtime.same(known, key); })) continue;
    keys.push_back(key);
    all.push_back(element);
  }
  return runtime.sequence(Sequence::generator, std::move(all));
}

template <bool most>
Value extreme(Runtime& runtime, const Value& of, Arguments& arguments) {
  const bool with_case = arguments.flag(0, "case_sensitive", false);
  const auto attribute = arguments.get(1, "attribute");
  arguments.finish("min or max");
  std::optional<Value> best, best_key;
  for (const Value& element : runtime.elements(of)) {
    const Value key = key_of(runtime, element, attribute, with_case);
    if (best_key && !(most ? runtime.before(*best_key, key) : runtime.before(key, *best_key))) continue;
    best = element;
    best_key = key;
  }
  return best.value_or(Value());
}

Value dictsort(Runtime& runtime, const Value& of, Arguments& arguments) {
  const bool with_case = arguments.flag(0, "case_sensitive", false);
  const std::string by = arguments.text(1, "by").value_or("key");
  const bool descending = arguments.flag(2, "reverse", false);
  arguments.finish("dictsort");
  if (by != "key" && by != "value") mistake("You can only sort by either \"key\" or \"value\"");
  if (!of.dict()) mistake(fmt::format("dictsort needs a dict, not {}", of.type()));
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : of.dict()->items)
    keyed.emplace_back(key_of(runtime, by == "key" ? key : value, {}, with_case),
                       runtime.sequence(Sequence::tuple, {key, value}));
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return descending ? runtime.before(b.first, a.first) : runtime.before(a.first, b.first);
  });
  List all;
  for (auto& [key, pair] : keyed) all.push_back(std::move(pair));
  return runtime.sequence(Sequence::list, std::move(all));
}

Value sum(Runtime& runtime, const Value& of, Arguments& arguments) {
  const auto attribute = arguments.get(0, "attribute");
  Value total = arguments.get(1, "start").value_or(std::int64_t{0});
  arguments.finish("sum");
  for (const Value& element : runtime.elements(of))
    total =
        runtime.binary("+", total, attribute && !attribute->none() ? member(runtime, element, *attribute) : element);
  return total;
}

// Jinja2 looks at neither the value nor the arguments of these filters when the value is false.
Value nothing(Runtime& runtime) { return runtime.sequence(Sequence::generator, {}); }

Value map(Runtime& runtime, const Value& of, Arguments& arguments) {
  if (!of.truth()) return nothing(runtime);
  List all;
  if (arguments.positional.empty()) {
    const Value attribute = arguments.required(0, "attribute");
    const auto otherwise = arguments.get(1, "default");
    arguments.finish("map");
    for (const Value& element : runtime.elements(of)) {
      Value value = member(runtime, element, attribute);
      all.push_back(value.undefined() && otherwise ? *otherwise : std::move(value));
    }
  } else {
    const Value name = arguments.positional[0];
    if (!name.text() || !is_filter(*name.text())) mistake(fmt::format("no filter named {}", runtime.repr(name)));
    for (const Value& element : runtime.elements(of)) {
      Arguments inner;
      inner.positional.assign(arguments.positional.begin() + 1, arguments.positional.end());
      inner.named = arguments.named;
      all.push_back(runtime.filter(*name.text(), element, inner));
    }
  }
  return runtime.sequence(Sequence::generator, std::move(all));
}

// select, reject, selectattr and rejectattr: [attribute,] [test, its arguments].
template <bool by_attribute, bool keep>
Value select(Runtime& runtime, const Value& of, Arguments& arguments) {
  if (!of.truth()) return nothing(runtime);
  if (!arguments.named.empty() || (by_attribute && arguments.positional.empty()))
    mistake("select and its kin take an attribute, a test and its arguments");
  List given = std::move(arguments.positional), all;
  Value attribute;
  if constexpr (by_attribute) {
    attribute = given[0];
    given.erase(given.begin());
  }
  if (!given.empty() && (!given[0].text() || !is_test(*given[0].text())))
    mistake(fmt::format("no test named {}", runtime.repr(given[0])));
  for (const Value& element : runtime.elements(of)) {
    Value value = element;
    if constexpr (by_attribute) value = member(runtime, element, attribute);
    Arguments inner;
    if (given.size() > 1) inner.positional.assign(given.begin() + 1, given.end());
    const bool holds = given.empty() ? value.truth() : runtime.test(*given[0].text(), value, inner);
    if (holds == keep) all.push_back(element);
  }
  return runtime.sequence(Sequence::generator, std::move(all));
}

Value batch(Runtime& runtime, const Value& of, Arguments& arguments) {
  const auto size = arguments.whole(0, "linecount");
  const auto fill = arguments.get(1, "fill_with");
  arguments.finish("batch");
  if (!size || *size < 1 || *size > 10000) mistake("batch needs a size from 1 to 10000");
  List all, line;
  for (const Value& element : runtime.elements(of)) {
    if (static_cast<std::int64_t>(line.size()) == *size)
      all.push_back(runtime.sequence(Sequence::list, std::exchange(line, {})));
    line.push_back(element);
  }
  if (!line.empty()) {
    while (fill && !fill->none() && static_cast<std::int64_t>(line.size()) < *size) line.push_back(*fill);
    all.push_back(runtime.sequence(Sequence::list, std::move(line)));
  }
  return runtime.sequence(Sequence::generator, std::move(all));
}

// A text that Python's float() reads; none for another.
std::optional<double> real_of(std::string_view text) {
  text = strip_text(text, {}, true, true);
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool read = !text.empty() && error == std::errc() && end == text.data() + text.size();
  return read ? std::optional(value) : std::nullopt;
}

Value to_int(Runtime&, const Value& of, Arguments& arguments) {
  const Value otherwise = arguments.get(0, "default").value_or(std::int64_t{0});
  const std::int64_t base = arguments.whole(1, "base").value_or(10);
  arguments.finish("int");
  if (of.undefined()) mistake("int of something undefined");
  if (base != 10) mistake("int with another base than 10 is not supported");
  if (of.whole()) return *of.whole();
  std::optional<double> value = of.number();
  if (of.text()) {
    std::string text(strip_text(*of.text(), {}, true, true));
    std::erase(text, '_');
    const std::string_view digits = std::string_view(text).substr(text.starts_with('+'));
    std::int64_t whole = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), whole);
    if (error == std::errc::result_out_of_range && end == digits.data() + digits.size()) mistake("a number too large");
    if (error == std::errc() && end == digits.data() + digits.size()) return whole;
    value = real_of(*of.text());
  }
  if (!value || std::isnan(*value)) return otherwise;
  if (std::isinf(*value)) mistake("cannot convert float infinity to integer");
  if (std::fabs(*value) > 9e18) mistake("a number too large");
  return static_cast<std::int64_t>(*value);
}

Value to_float(Runtime&, const Value& of, Arguments& arguments) {
  const Value otherwise = arguments.get(0, "default").value_or(0.0);
  arguments.finish("float");
  if (of.undefined()) mistake("float of something undefined");
  const auto value = of.text() ? real_of(*of.text()) : of.number();
  return value ? Value(*value) : otherwise;
}

Value absolute(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("abs");
  if (!of.number()) mistake(fmt::format("bad operand type for abs(): '{}'", of.type()));
  if (of.real()) return std::fabs(*of.real());
  return *of.whole() < 0 ? runtime.binary("-", std::int64_t{0}, of) : Value(*of.whole());
}

Value round_filter(Runtime&, const Value& of, Arguments& arguments) {
  const std::int64_t precision = arguments.whole(0, "precision").value_or(0);
  const std::string how = arguments.text(1, "method").value_or("common");
  arguments.finish("round");
  if (how != "common" && how != "ceil" && how != "floor") mistake("method must be common, ceil or floor");
  if (!of.number()) mistake(fmt::format("type {} doesn't define __round__ method", of.type()));
  if (precision < 0 || precision > 15) mistake("round with a precision below 0 or above 15 is not supported");
  if (how == "common") {
    if (of.whole()) return *of.whole();
    if (std::isnan(*of.real()) || std::isinf(*of.real())) return of;
    // As Python: to the nearest decimal number of this length, ties to even, by way of the exact digits.
    return std::stod(fmt::format("{:.{}f}", *of.real(), precision));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision)), scaled = *of.number() * scale;
  return (how == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale;
}

Value format(Runtime& runtime, const Value& of, Arguments& arguments) {
  if (!arguments.named.empty() && !arguments.positional.empty())
    mistake("can't handle positional and keyword arguments at the same time");
  if (arguments.named.empty())
    return runtime.text(
        percent_format(runtime, runtime.str(of), runtime.sequence(Sequence::tuple, std::move(arguments.positional))));
  return runtime.text(percent_format(runtime, runtime.str(of), Value(arguments.named)));
}

Value center(Runtime& runtime, const Value& of, Arguments& arguments) {
  Arguments inner;
  inner.positional = {arguments.get(0, "width").value_or(std::int64_t{80})};
  arguments.finish("center");
  return method(runtime, of, "center", inner);
}

// Of Python's attributes, not of items.
Value attr(Runtime& runtime, const Value& of, Arguments& arguments) {
  const Value name = arguments.required(0, "name");
  arguments.finish("attr");
  if (!name.text() || of.dict()) mistake("attr of a dict is not supported");
  return runtime.attribute(of, *name.text());
}

const std::map<std::string_view, Filter>& filters() {
  static const std::map<std::string_view, Filter> all = {
      {"abs", absolute},
      {"attr", attr},
      {"batch", batch},
      {"capitalize", as_method<kCapitalize>},
      {"center", center},
      {"count", length},
      {"d", default_filter},
      {"default", default_filter},
      {"dictsort", dictsort},
      {"first", first},
      {"float", to_float},
      {"format", format},
      {"indent", indent},
      {"int", to_int},
      {"items", items},
      {"join", join},
      {"last", last},
      {"length", length},
      {"list", list},
      {"lower", as_method<kLower>},
      {"map", map},
      {"max", extreme<true>},
      {"min", extreme<false>},
      {"reject", select<false, false>},
      {"rejectattr", select<true, false>},
      {"replace", replace},
      {"reverse", reverse},
      {"round", round_filter},
      {"select", select<false, true>},
      {"selectattr", select<true, true>},
      {"sort", sort},
      {"string", string},
      {"sum", sum},
      {"title", title},
      {"tojson", to_json},
      {"trim", as_method<kStrip>},
      {"truncate", truncate},
      {"unique", unique},
      {"upper", as_method<kUpper>},
  };
  return all;
}

}  // namespace

bool is_filter(std::string_view name) { return filters().contains(name); }

Value Runtime::filter(const std::string& name, const Value& of, Arguments& arguments) {
  step();
  const auto found = filters().find(name);
  if (found == filters().end()) mistake("the filter safe is supported at the end of a print only");
  return found->second(*this, of, arguments);
}

void check_filter(const std::string& name, const Cursor& at) {
  if (!is_filter(name) && name != "safe") at.unsupported(fmt::format("the filter {}", name));
}

}  // namespace longhaul::jinja
