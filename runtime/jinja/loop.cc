#include "runtime/jinja/loop.h"

#include <algorithm>
#include <utility>

namespace longhaul::jinja {

Loop::Loop() : Function("loop", [](Runtime&, Arguments&) -> Value { mistake("a recursive loop is not supported"); }) {}

std::optional<Value> Loop::member(std::string_view name) {
  const auto size = static_cast<std::int64_t>(elements.size());
  if (name == "index") return at + 1;
  if (name == "index0") return at;
  if (name == "revindex") return size - at;
  if (name == "revindex0") return size - at - 1;
  if (name == "length") return size;
  if (name == "first") return at == 0;
  if (name == "last") return at + 1 == size;
  if (name == "depth") return std::int64_t{1};  // of recursive loops
  if (name == "depth0") return std::int64_t{0};
  if (name == "previtem") return at > 0 ? elements[static_cast<std::size_t>(at - 1)] : Value();
  if (name == "nextitem") return at + 1 < size ? elements[static_cast<std::size_t>(at + 1)] : Value();
  if (name == "cycle") {
    cycle.call = [this](Runtime&, Arguments& arguments) {
      List items = std::exchange(arguments.positional, {});
      arguments.finish("cycle");
      if (items.empty()) mistake("no items for cycling given");
      return items[static_cast<std::size_t>(at) % items.size()];
    };
    return Value(&cycle);
  }
  if (name == "changed") {
    changed.call = [this](Runtime& runtime, Arguments& arguments) {
      List items = std::exchange(arguments.positional, {});
      arguments.finish("changed");
      const bool differs = !last || last->size() != items.size() ||
                           !std::equal(items.begin(), items.end(), last->begin(),
                                       [&](const Value& a, const Value& b) { return runtime.same(a, b); });
      if (differs) last = std::move(items);
      return differs;
    };
    return Value(&changed);
  }
  return std::nullopt;
}

}  // namespace longhaul::jinja
