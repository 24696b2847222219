#include "runtime/jinja/template.h"

#include <algorithm>
#include <utility>

#include "runtime/jinja/interpreter.h"
#include "runtime/jinja/loop.h"
#include "runtime/jinja/text.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul::jinja {

std::string Interpreter::run(const Node& node, const Map& variables) {
  root_.variables = variables;
  scope_ = &root_;
  execute(node);
  return std::move(out_);
}

void Interpreter::print(std::string_view text) {
  runtime_.step(text.size());
  runtime_.take(text.size());
  out_ += text;
}

std::string Interpreter::printed(const Node& body) {
  std::string outer = std::exchange(out_, {});
  execute(body);
  return std::exchange(out_, std::move(outer));
}

Flow Interpreter::execute(const Node& node) {
  const Deeper deeper(runtime_);
  runtime_.step();
  line_ = node.line;
  switch (node.kind) {
    case NodeKind::text:
      print(node.text);
      break;
    case NodeKind::print:
      print(runtime_.str(evaluate(*node.children[0])));
      break;
    case NodeKind::branch:
      if (evaluate(*node.children[0]).truth()) return execute(*node.children[1]);
      if (node.children.size() > 2) return execute(*node.children[2]);
      break;
    case NodeKind::loop:
      loop(node);
      break;
    case NodeKind::set:
      set(node, evaluate(*node.children[0]));
      break;
    case NodeKind::set_block:
      set_block(node);
      break;
    case NodeKind::macro:
      scope_->set(node.text, macro(node, node.text, 0));
      break;
    case NodeKind::call_block:
      call_block(node);
      break;
    case NodeKind::filter_block: {
      const Value body = runtime_.text(inner_printed(*node.children[0]));
      print(runtime_.str(filtered(*node.children[1], body)));
      break;
    }
    case NodeKind::with:
      return with(node);
    case NodeKind::break_loop:
      return Flow::breaks;
    case NodeKind::continue_loop:
      return Flow::continues;
    default:
      for (const auto& child : node.children)
        if (const Flow flow = execute(*child); flow != Flow::on) return flow;
  }
  return Flow::on;
}

std::string Interpreter::inner_printed(const Node& body) {
  const Inside inside(*this, scope_);
  return printed(body);
}

void Interpreter::assign(const std::vector<std::string>& names, Value value) {
  if (names.size() == 1) return scope_->set(names[0], std::move(value));
  List parts = runtime_.elements(value);
  if (parts.size() != names.size())
    mistake(fmt::format("{} values to unpack (expected {})", parts.size() < names.size() ? "not enough" : "too many",
                        names.size()));
  for (std::size_t i = 0; i < names.size(); ++i) scope_->set(names[i], std::move(parts[i]));
}

void Interpreter::set(const Node& node, Value value) {
  if (!node.of_namespace) return assign(node.names, std::move(value));
  auto* space = dynamic_cast<Namespace*>(look_up(node.text).object());
  if (!space) mistake("cannot assign attribute on non-namespace object");
  runtime_.step(16 * space->members.items.size());
  runtime_.take(sizeof(Value) + node.names[0].size());
  space->members.put(node.names[0], std::move(value));
}

void Interpreter::set_block(const Node& node) {
  Value value = runtime_.text(inner_printed(*node.children[0]));
  if (node.children[1]) value = filtered(*node.children[1], value);
  set(node, std::move(value));
}

void Interpreter::loop(const Node& node) {
  const Value over = evaluate(*node.children[0]);
  List elements = runtime_.elements(over);
  auto* state = runtime_.own<Loop>();
  if (node.children[1]) {
    List kept;
    for (Value& element : elements) {
      const Inside inside(*this, scope_);
      assign(node.names, element);
      if (evaluate(*node.children[1]).truth()) kept.push_back(std::move(element));
    }
    elements = std::move(kept);
  }
  state->elements = std::move(elements);
  bool completed = false;
  for (; state->at < static_cast<std::int64_t>(state->elements.size()); ++state->at) {
    // Each round has its own variables, as in Jinja2.
    const Inside inside(*this, scope_);
    scope_->set("loop", state);
    assign(node.names, state->elements[static_cast<std::size_t>(state->at)]);
    const Flow flow = execute(*node.children[2]);
    if (flow == Flow::breaks) break;
    completed |= flow == Flow::on;
  }
  // As in Jinja2, also when every round was left by break or continue.
  if (!completed && node.children[3]) {
    const Inside inside(*this, scope_);
    execute(*node.children[3]);
  }
}

Flow Interpreter::with(const Node& node) {
  // The values do not see each other.
  List values;
  for (std::size_t i = 1; i < node.children.size(); ++i) values.push_back(evaluate(*node.children[i]));
  const Inside inside(*this, scope_);
  for (std::size_t i = 0; i < values.size(); ++i) scope_->set(node.names[i], std::move(values[i]));
  return execute(*node.children[0]);
}

Value Interpreter::macro(const Node& node, const std::string& name, std::size_t body) {
  Scope* seen = scope_;
  for (Scope* scope = scope_; scope; scope = scope->outer) scope->captured = true;
  return runtime_.own<Function>(name, [this, &node, name, body, seen](Runtime&, Arguments& arguments) {
    return call_macro(node, name, body, seen, arguments);
  });
}

Value Interpreter::call_macro(const Node& node, const std::string& name, std::size_t body, Scope* seen,
                              Arguments& arguments) {
  const Deeper deeper(runtime_);
  const Inside inside(*this, seen);
  const std::size_t defaults = node.names.size() - (node.children.size() - body - 1);
  for (std::size_t i = 0; i < node.names.size(); ++i) {
    auto given = arguments.get(i, node.names[i]);
    if (!given && i >= defaults) given = evaluate(*node.children[body + 1 + i - defaults]);
    scope_->set(node.names[i], std::move(given).value_or(Value()));
  }
  if (auto given = arguments.take("caller")) scope_->set("caller", *std::move(given));
  // The rest, for macros that name it.
  List rest;
  for (std::size_t i = node.names.size(); i < arguments.positional.size(); ++i) rest.push_back(arguments.positional[i]);
  if (!rest.empty() && !mentions(*node.children[body], "varargs"))
    mistake(fmt::format("macro '{}' takes not more than {} argument(s)", name, node.names.size()));
  if (!arguments.named.empty() && !mentions(*node.children[body], "kwargs"))
    mistake(fmt::format("macro '{}' takes no keyword argument '{}'", name, arguments.named[0].first));
  scope_->set("varargs", runtime_.sequence(Sequence::tuple, std::move(rest)));
  scope_->set("kwargs", Value(Map(arguments.named)));
  return runtime_.text(printed(*node.children[body]));
}

bool Interpreter::mentions(const Node& node, std::string_view name) {
  if (node.kind == NodeKind::name && node.text == name) return true;
  return std::any_of(node.children.begin(), node.children.end(),
                     [&](const NodePtr& child) { return child && mentions(*child, name); });
}

void Interpreter::call_block(const Node& node) {
  const Value caller = macro(node, "caller", 1);
  const Node& call = *node.children[0];
  const Value callee = evaluate(*call.children[0]);
  Arguments arguments = arguments_of(call);
  arguments.named.emplace_back("caller", caller);
  print(runtime_.str(called(call, callee, arguments)));
}

namespace {

std::size_t bytes_of(const Value& value) { return value.extent().size(); }

}  // namespace

Template::Template(std::string_view source, std::string name, Exit mistake)
    : name_(std::move(name)), mistake_(mistake) {
  const Where where{name_, mistake};
  root_ = parse(tokenize(source, where), where);
}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

std::string Template::render(const Map& variables, std::optional<std::tm> now, const Limits& limits) const {
  std::size_t bytes = 0;
  for (const auto& [name, value] : variables) bytes += bytes_of(value);
  Interpreter interpreter(bytes, now, limits);
  try {
    return interpreter.run(*root_, variables);
  } catch (const Raised& raised) {
    throw UserError(Exit::usage, "{}: {}", name_, printable(unguarded(raised.what)));
  } catch (const Mistake& mistake) {
    throw UserError(mistake_, "{}:{}: {}", name_, interpreter.line(), printable(unguarded(mistake.what)));
  }
}

}  // namespace longhaul::jinja
