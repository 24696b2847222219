// The filters of Jinja2 that templates of chats use: those of sequences, and how filters are found.
#include <algorithm>

#include "runtime/jinja/filters.h"
#include "runtime/jinja/text.h"

namespace longhaul::jinja {
namespace {

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
  return !case_sensitive && value.text() ? (*method_of(value, "lower"))(runtime, none) : value;
}

Value length(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("length");
  return runtime.length(of);
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
    check_hashable(key);
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

}  // namespace

const Filters& sequence_filters() {
  static const Filters all = {
      {"batch", batch},
      {"count", length},
      {"dictsort", dictsort},
      {"first", first},
      {"items", items},
      {"join", join},
      {"last", last},
      {"length", length},
      {"list", list},
      {"map", map},
      {"max", extreme<true>},
      {"min", extreme<false>},
      {"reject", select<false, false>},
      {"rejectattr", select<true, false>},
      {"reverse", reverse},
      {"select", select<false, true>},
      {"selectattr", select<true, true>},
      {"sort", sort},
      {"sum", sum},
      {"unique", unique},
  };
  return all;
}

bool is_filter(std::string_view name) { return scalar_filters().contains(name) || sequence_filters().contains(name); }

Value Runtime::filter(const std::string& name, const Value& of, Arguments& arguments) {
  step();
  for (const Filters* filters : {&scalar_filters(), &sequence_filters()})
    if (const auto found = filters->find(name); found != filters->end()) return found->second(*this, of, arguments);
  mistake("the filter safe is supported at the end of a print only");
}

void check_filter(const std::string& name, const Cursor& at) {
  if (!is_filter(name) && name != "safe") at.unsupported(fmt::format("the filter {}", name));
}

}  // namespace longhaul::jinja
