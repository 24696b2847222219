// The expressions of a template.
#include <array>
#include <utility>

#include "runtime/jinja/interpreter.h"

namespace longhaul::jinja {

Value Interpreter::evaluate(const Node& node) {
  const Deeper deeper(runtime_);
  runtime_.step();
  line_ = node.line;
  switch (node.kind) {
    case NodeKind::literal:
      return node.value;
    case NodeKind::name:
      return look_up(node.text);
    case NodeKind::list:
    case NodeKind::tuple:
      return list(node);
    case NodeKind::dict:
      return dict(node);
    case NodeKind::attribute:
      return attribute(node);
    case NodeKind::item:
      return item(node);
    case NodeKind::slice:
      return slice(node);
    case NodeKind::call:
      return call(node);
    case NodeKind::negation:
      return !evaluate(*node.children[0]).truth();
    case NodeKind::minus:
    case NodeKind::plus:
      return sign(node);
    case NodeKind::conjunction:
    case NodeKind::disjunction:
      return junction(node);
    case NodeKind::choice:
      if (evaluate(*node.children[1]).truth()) return evaluate(*node.children[0]);
      return node.children[2] ? evaluate(*node.children[2]) : Value();
    case NodeKind::comparison:
      return comparison(node);
    case NodeKind::binary:
      return binary(node);
    case NodeKind::concatenation:
      return concatenation(node);
    case NodeKind::test:
      return test(node);
    case NodeKind::filter:
      return filtered(node, {});
    default:
      mistake("not an expression");
  }
}

Value Interpreter::list(const Node& node) {
  List elements;
  for (const auto& element : node.children) elements.push_back(evaluate(*element));
  return runtime_.sequence(node.kind == NodeKind::list ? Sequence::list : Sequence::tuple, std::move(elements));
}

Value Interpreter::dict(const Node& node) {
  Dict dict;
  for (std::size_t i = 0; i < node.children.size(); i += 2) {
    Value key = evaluate(*node.children[i]);
    check_hashable(key);
    runtime_.step(16 * dict.items.size());
    dict.put(std::move(key), evaluate(*node.children[i + 1]));
  }
  return runtime_.dict(std::move(dict));
}

Value Interpreter::attribute(const Node& node) {
  const Value of = evaluate(*node.children[0]);
  line_ = node.line;
  return runtime_.attribute(of, node.text);
}

Value Interpreter::item(const Node& node) {
  const Value of = evaluate(*node.children[0]), key = evaluate(*node.children[1]);
  line_ = node.line;
  return runtime_.item(of, key);
}

Value Interpreter::slice(const Node& node) {
  const Value of = evaluate(*node.children[0]);
  std::array<Value, 3> parts{None{}, None{}, None{}};
  for (std::size_t i = 0; i < 3; ++i)
    if (node.children[i + 1]) parts[i] = evaluate(*node.children[i + 1]);
  return runtime_.slice(of, parts[0], parts[1], parts[2]);
}

Value Interpreter::sign(const Node& node) {
  const Value of = evaluate(*node.children[0]);
  if (!of.number())
    mistake(fmt::format("bad operand type for unary {}: '{}'", node.kind == NodeKind::plus ? '+' : '-', of.type()));
  if (of.whole()) return runtime_.binary(node.kind == NodeKind::plus ? "+" : "-", std::int64_t{0}, of);
  return node.kind == NodeKind::plus ? *of.real() : -*of.real();
}

Value Interpreter::junction(const Node& node) {
  Value left = evaluate(*node.children[0]);
  return left.truth() == (node.kind == NodeKind::disjunction) ? left : evaluate(*node.children[1]);
}

Value Interpreter::comparison(const Node& node) {
  Value left = evaluate(*node.children[0]);
  for (std::size_t i = 0; i < node.names.size(); ++i) {
    Value right = evaluate(*node.children[i + 1]);
    if (!compare(node.names[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

bool Interpreter::compare(const std::string& op, const Value& a, const Value& b) {
  if (op == "==") return runtime_.same(a, b);
  if (op == "!=") return !runtime_.same(a, b);
  if (op == "in") return runtime_.contains(b, a);
  if (op == "not in") return !runtime_.contains(b, a);
  if (a.undefined() || b.undefined()) mistake("an operand is undefined");
  if (op == "<") return runtime_.before(a, b);
  if (op == ">") return runtime_.before(b, a);
  // Not the negation of the others: nan is neither.
  return op == "<=" ? runtime_.before(a, b) || runtime_.same(a, b) : runtime_.before(b, a) || runtime_.same(a, b);
}

Value Interpreter::binary(const Node& node) {
  const Value left = evaluate(*node.children[0]), right = evaluate(*node.children[1]);
  line_ = node.line;
  return runtime_.binary(node.text, left, right);
}

Value Interpreter::concatenation(const Node& node) {
  std::string text;
  for (const auto& part : node.children) {
    const std::string next = runtime_.str(evaluate(*part));
    runtime_.take(next.size());
    text += next;
  }
  return runtime_.text(std::move(text));
}

Arguments Interpreter::arguments_of(const Node& node) {
  Arguments arguments;
  for (std::size_t i = 0; i < node.names.size(); ++i) {
    Value value = evaluate(*node.children[i + 1]);
    if (node.names[i].empty()) arguments.positional.push_back(std::move(value));
    else arguments.named.emplace_back(node.names[i], std::move(value));
  }
  return arguments;
}

Value Interpreter::call(const Node& node) {
  const Node& callee = *node.children[0];
  if (callee.kind == NodeKind::attribute) {
    const Value of = evaluate(*callee.children[0]);
    if (const auto method = method_of(of, callee.text)) {
      Arguments arguments = arguments_of(node);
      line_ = node.line;
      return (*method)(runtime_, arguments);
    }
    line_ = node.line;
    const Value function = runtime_.attribute(of, callee.text);
    if (function.undefined() && !of.dict())
      mistake(fmt::format("the method {} of a {} is not supported in chat templates", callee.text, of.type()));
    Arguments arguments = arguments_of(node);
    return called(node, function, arguments);
  }
  const Value function = evaluate(callee);
  Arguments arguments = arguments_of(node);
  return called(node, function, arguments);
}

Value Interpreter::called(const Node& node, const Value& function, Arguments& arguments) {
  line_ = node.line;
  if (function.undefined()) {
    const Node& callee = *node.children[0];
    mistake(callee.text.empty() ? "something undefined is called" : fmt::format("'{}' is undefined", callee.text));
  }
  return runtime_.call(function, arguments);
}

Value Interpreter::test(const Node& node) {
  const Value of = evaluate(*node.children[0]);
  Arguments arguments = arguments_of(node);
  line_ = node.line;
  return runtime_.test(node.text, of, arguments);
}

Value Interpreter::filtered(const Node& node, const Value& block) {
  const Deeper deeper(runtime_);
  const Value of = !node.children[0]                            ? block
                   : node.children[0]->kind == NodeKind::filter ? filtered(*node.children[0], block)
                                                                : evaluate(*node.children[0]);
  Arguments arguments = arguments_of(node);
  line_ = node.line;
  return runtime_.filter(node.text, of, arguments);
}

Value Interpreter::look_up(const std::string& name) {
  for (Scope* scope = scope_; scope; scope = scope->outer)
    if (const Value* found = scope->find(name)) return *found;
  if (auto function = global_function(runtime_, name)) return *std::move(function);
  return {};
}

}  // namespace longhaul::jinja
