// The functions that templates find: Jinja2's and those of transformers.
#include <algorithm>
#include <cstdlib>

#include "runtime/jinja/runtime.h"

namespace longhaul::jinja {
namespace {

Value range(Runtime& runtime, Arguments& arguments) {
  constexpr std::int64_t kMost = 100000;  // the sandbox's
  const auto first = arguments.whole(0, "start"), second = arguments.whole(1, "stop"),
             third = arguments.whole(2, "step");
  arguments.finish("range");
  if (!first) mistake("range expected at least 1 argument");
  Sequence made{.kind = Sequence::range};
  made.range_begin = second ? *first : 0;
  made.range_end = second ? *second : *first;
  made.range_step = third.value_or(1);
  if (made.range_step == 0) mistake("range() arg 3 must not be zero");
  const auto distance = static_cast<__int128>(made.range_end) - made.range_begin;
  const __int128 step = made.range_step;
  const __int128 count =
      (step > 0) == (distance > 0) && distance != 0 ? (distance - (step > 0 ? 1 : -1)) / step + 1 : 0;
  if (count > kMost)
    mistake(fmt::format("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMost));
  runtime.take(static_cast<std::size_t>(count) * sizeof(Value));
  runtime.step(static_cast<std::size_t>(count) * 16);
  for (__int128 at = made.range_begin, i = 0; i < count; ++i, at += step)
    made.elements.emplace_back(static_cast<std::int64_t>(at));
  made.extent.weight += static_cast<std::int64_t>(count);
  return made;
}

Dict dict_of(Runtime& runtime, Arguments& arguments, std::string_view callee) {
  Dict dict;
  if (const auto from = arguments.get(0, "mapping or iterable")) {
    if (from->dict()) {
      runtime.take(from->dict()->items.size() * 2 * sizeof(Value));
      dict = *from->dict();
    } else {
      for (const Value& pair : runtime.elements(*from)) {
        const List both = runtime.elements(pair);
        if (both.size() != 2) mistake("a dict is made of pairs");
        runtime.step(16 * dict.items.size());
        dict.put(both[0], both[1]);
      }
    }
  }
  for (auto& [name, value] : std::exchange(arguments.named, {})) {
    runtime.step(16 * dict.items.size());
    dict.put(name, std::move(value));
  }
  arguments.finish(callee);
  return dict;
}

// cycler(...): a member at a time, around and around.
struct Cycler : Function {
  explicit Cycler(List items) : Function("cycler", {}), items(std::move(items)) {
    call = [](Runtime&, Arguments&) -> Value { mistake("a cycler is not callable"); };
  }
  std::string type() const override { return "Cycler"; }
  std::optional<Value> member(std::string_view name) override {
    if (name == "current") return items[at];
    if (name == "next") {
      next.call = [this](Runtime&, Arguments& arguments) {
        arguments.finish("next");
        Value value = items[at];
        at = (at + 1) % items.size();
        return value;
      };
      return Value(&next);
    }
    if (name == "reset") {
      reset.call = [this](Runtime&, Arguments& arguments) -> Value {
        arguments.finish("reset");
        at = 0;
        return None{};
      };
      return Value(&reset);
    }
    return std::nullopt;
  }
  List items;
  std::size_t at = 0;
  Function next{"next", {}}, reset{"reset", {}};
};

Value cycler(Runtime& runtime, Arguments& arguments) {
  List items = std::exchange(arguments.positional, {});
  arguments.finish("cycler");
  if (items.empty()) mistake("at least one item has to be provided");
  return runtime.own<Cycler>(std::move(items));
}

// joiner(separator): nothing at first, and the separator from then on.
Value joiner(Runtime& runtime, Arguments& arguments) {
  const std::string separator = arguments.text(0, "sep").value_or(", ");
  arguments.finish("joiner");
  return runtime.own<Function>("joiner", [separator, used = false](Runtime&, Arguments& inner) mutable -> Value {
    inner.finish("a joiner");
    return std::exchange(used, true) ? Value(separator) : Value("");
  });
}

Value make_namespace(Runtime& runtime, Arguments& arguments) {
  Dict members = dict_of(runtime, arguments, "namespace");
  auto* made = runtime.own<Namespace>();
  made->members = std::move(members);
  return made;
}

Value raise_exception(Runtime& runtime, Arguments& arguments) {
  const Value message = arguments.required(0, "message");
  arguments.finish("raise_exception");
  throw Raised{runtime.str(message)};
}

Value strftime_now(Runtime& runtime, Arguments& arguments) {
  const Value format = arguments.required(0, "format");
  arguments.finish("strftime_now");
  if (!format.text()) mistake(fmt::format("strftime_now needs a string, not {}", format.type()));
  if (format.text()->size() > 1000) mistake("strftime_now: a format of more than 1000 bytes");
  return runtime.text(format_time(runtime.now(), *format.text()));
}

}  // namespace

std::string format_time(const std::tm& time, std::string_view format) {
  // Python's time has microseconds, here none, and no zone.
  std::string known;
  for (std::size_t at = 0; at < format.size(); ++at) {
    const char next = format[at] == '%' && at + 1 < format.size() ? format[at + 1] : '\0';
    if (next == 'f') known += "000000";
    else if (next != 'z' && next != 'Z') {
      known += format[at];
      if (next != '\0') known += next;
    }
    at += next != '\0';
  }
  std::string out(known.size() * 64 + 64, '\0');
  out.resize(std::strftime(out.data(), out.size(), known.c_str(), &time));
  return out;
}

std::optional<Value> global_function(Runtime& runtime, std::string_view name) {
  using Plain = Value (*)(Runtime&, Arguments&);
  constexpr std::pair<std::string_view, Plain> kFunctions[] = {
      {"range", range},
      {"dict", [](Runtime& r, Arguments& a) { return r.dict(dict_of(r, a, "dict")); }},
      {"namespace", make_namespace},
      {"cycler", cycler},
      {"joiner", joiner},
      {"raise_exception", raise_exception},
      {"strftime_now", strftime_now},
      {"lipsum", [](Runtime&, Arguments&) -> Value { mistake("lipsum is not supported in chat templates"); }},
  };
  for (const auto& [known, function] : kFunctions)
    if (known == name) return runtime.own<Function>(std::string(name), function);
  return std::nullopt;
}

}  // namespace longhaul::jinja
