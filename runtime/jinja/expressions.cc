#include <algorithm>
#include <charconv>

#include "runtime/jinja/syntax.h"

namespace longhaul::jinja {

NodePtr Expressions::expression(bool with_condition) {
  const Cursor::Deeper deeper(at_);
  NodePtr made = disjunction();
  while (with_condition && at_.take_word("if")) {
    NodePtr condition = disjunction();
    NodePtr otherwise = at_.take_word("else") ? expression() : nullptr;
    made = at_.node(NodeKind::choice, "", std::move(made), std::move(condition), std::move(otherwise));
  }
  return made;
}

bool Expressions::tuple_ends() const {
  const TokenKind kind = at_.now().kind;
  return kind == TokenKind::print_end || kind == TokenKind::block_end || kind == TokenKind::end || at_.is_symbol(")");
}

NodePtr Expressions::tuple(bool with_condition) {
  std::vector<NodePtr> elements;
  bool comma = false;
  while (!tuple_ends() && !at_.is_word("in")) {
    elements.push_back(expression(with_condition));
    if (!at_.take_symbol(",")) {
      if (elements.size() == 1 && !comma) return std::move(elements[0]);
      break;
    }
    comma = true;
  }
  if (elements.empty()) at_.fail("an expression is missing");
  return at_.node(NodeKind::tuple, "", std::move(elements));
}

NodePtr Expressions::disjunction() {
  NodePtr left = conjunction();
  while (at_.take_word("or")) left = at_.node(NodeKind::disjunction, "", std::move(left), conjunction());
  return left;
}

NodePtr Expressions::conjunction() {
  NodePtr left = negation();
  while (at_.take_word("and")) left = at_.node(NodeKind::conjunction, "", std::move(left), negation());
  return left;
}

NodePtr Expressions::negation() {
  if (!at_.take_word("not")) return comparison();
  const Cursor::Deeper deeper(at_);
  return at_.node(NodeKind::negation, "", negation());
}

NodePtr Expressions::comparison() {
  std::vector<NodePtr> operands;
  std::vector<std::string> operators;
  operands.push_back(sum());
  for (;;) {
    std::string op;
    for (const char* known : {"==", "!=", "<", "<=", ">", ">="})
      if (at_.is_symbol(known)) op = known;
    if (at_.is_word("in")) op = "in";
    if (at_.is_word("not") && at_.next().kind == TokenKind::name && at_.next().text == "in") {
      op = "not in";
      at_.step();
    }
    if (op.empty()) break;
    at_.step();
    operators.push_back(std::move(op));
    operands.push_back(sum());
  }
  if (operators.empty()) return std::move(operands[0]);
  NodePtr made = at_.node(NodeKind::comparison, "", std::move(operands));
  made->names = std::move(operators);
  return made;
}

NodePtr Expressions::sum() {
  NodePtr left = concatenation();
  while (at_.is_symbol("+") || at_.is_symbol("-")) {
    std::string op = at_.now().text;
    at_.step();
    left = at_.node(NodeKind::binary, std::move(op), std::move(left), concatenation());
  }
  return left;
}

NodePtr Expressions::concatenation() {
  std::vector<NodePtr> parts;
  parts.push_back(product());
  while (at_.take_symbol("~")) parts.push_back(product());
  return parts.size() == 1 ? std::move(parts[0]) : at_.node(NodeKind::concatenation, "", std::move(parts));
}

NodePtr Expressions::product() {
  NodePtr left = power();
  while (at_.is_symbol("*") || at_.is_symbol("/") || at_.is_symbol("//") || at_.is_symbol("%")) {
    std::string op = at_.now().text;
    at_.step();
    left = at_.node(NodeKind::binary, std::move(op), std::move(left), power());
  }
  return left;
}

NodePtr Expressions::power() {
  NodePtr left = unary(true);
  while (at_.take_symbol("**")) left = at_.node(NodeKind::binary, "**", std::move(left), unary(true));
  return left;
}

NodePtr Expressions::unary(bool with_filter) {
  const Cursor::Deeper deeper(at_);
  NodePtr made;
  if (at_.take_symbol("-")) made = at_.node(NodeKind::minus, "", unary(false));
  else if (at_.take_symbol("+")) made = at_.node(NodeKind::plus, "", unary(false));
  else made = primary();
  made = postfix(std::move(made));
  return with_filter ? behind(std::move(made)) : std::move(made);
}

NodePtr Expressions::primary() {
  const Token& token = at_.now();
  if (token.kind == TokenKind::string) return string();
  if (token.kind == TokenKind::integer || token.kind == TokenKind::real) return number();
  if (at_.take_symbol("(")) return bracketed();
  if (at_.take_symbol("[")) return list();
  if (at_.take_symbol("{")) return dict();
  if (token.kind != TokenKind::name) {
    if (token.text.empty()) at_.fail("an expression is missing");
    at_.fail(fmt::format("unexpected {:?}", token.text));
  }
  NodePtr made = at_.node(NodeKind::literal, "");
  const std::string& text = token.text;
  if (text == "true" || text == "True") made->value = true;
  else if (text == "false" || text == "False") made->value = false;
  else if (text == "none" || text == "None") made->value = None{};
  else made = at_.node(NodeKind::name, text);
  at_.step();
  return made;
}

NodePtr Expressions::string() {
  NodePtr made = at_.node(NodeKind::literal, "");
  std::string text;
  for (; at_.now().kind == TokenKind::string; at_.step()) text += at_.now().text;
  made->value = std::move(text);
  return made;
}

NodePtr Expressions::number() {
  NodePtr made = at_.node(NodeKind::literal, "");
  const std::string& text = at_.now().text;
  if (at_.now().kind == TokenKind::real) {
    made->value = std::stod(text);
  } else {
    std::int64_t value = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc())
      at_.fail("a number too large");
    made->value = value;
  }
  at_.step();
  return made;
}

NodePtr Expressions::bracketed() {
  NodePtr made = at_.is_symbol(")") ? at_.node(NodeKind::tuple, "") : tuple();
  at_.expect_symbol(")");
  return made;
}

NodePtr Expressions::list() {
  std::vector<NodePtr> elements;
  while (!at_.is_symbol("]")) {
    elements.push_back(expression());
    if (!at_.take_symbol(",")) break;
  }
  at_.expect_symbol("]");
  return at_.node(NodeKind::list, "", std::move(elements));
}

NodePtr Expressions::dict() {
  std::vector<NodePtr> parts;
  while (!at_.is_symbol("}")) {
    parts.push_back(expression());
    at_.expect_symbol(":");
    parts.push_back(expression());
    if (!at_.take_symbol(",")) break;
  }
  at_.expect_symbol("}");
  return at_.node(NodeKind::dict, "", std::move(parts));
}

NodePtr Expressions::postfix(NodePtr of) {
  for (;;) {
    if (at_.take_symbol(".")) {
      if (at_.now().kind == TokenKind::integer) {
        of = at_.node(NodeKind::item, "", std::move(of), number());
      } else {
        std::string name = at_.expect(TokenKind::name);
        of = at_.node(NodeKind::attribute, std::move(name), std::move(of));
      }
    } else if (at_.take_symbol("[")) {
      of = subscript(std::move(of));
    } else if (at_.is_symbol("(")) {
      of = at_.node(NodeKind::call, "", std::move(of));
      arguments(*of);
    } else {
      return of;
    }
  }
}

NodePtr Expressions::subscript(NodePtr of) {
  NodePtr parts[3];
  int part = 0;
  bool slice = false;
  while (!at_.is_symbol("]")) {
    if (at_.take_symbol(":")) {
      slice = true;
      if (++part > 2) at_.fail("a slice has at most three parts");
    } else {
      if (parts[part]) break;
      parts[part] = expression();
    }
  }
  if (at_.is_symbol(",")) at_.unsupported("a subscript with commas");
  at_.expect_symbol("]");
  if (slice)
    return at_.node(NodeKind::slice, "", std::move(of), std::move(parts[0]), std::move(parts[1]), std::move(parts[2]));
  if (!parts[0]) at_.fail("an expression is missing");
  return at_.node(NodeKind::item, "", std::move(of), std::move(parts[0]));
}

NodePtr Expressions::behind(NodePtr of) {
  for (;;) {
    if (at_.take_symbol("|")) {
      of = filter(std::move(of));
    } else if (at_.take_word("is")) {
      of = test(std::move(of));
    } else if (at_.is_symbol("(")) {
      of = at_.node(NodeKind::call, "", std::move(of));
      arguments(*of);
    } else {
      return of;
    }
  }
}

NodePtr Expressions::filters(NodePtr of) {
  while (at_.take_symbol("|")) of = filter(std::move(of));
  return of;
}

NodePtr Expressions::filter(NodePtr of) {
  std::string name = at_.expect(TokenKind::name);
  check_filter(name, at_);
  NodePtr made = at_.node(NodeKind::filter, std::move(name), std::move(of));
  if (at_.is_symbol("(")) arguments(*made);
  return made;
}

NodePtr Expressions::test(NodePtr of) {
  const bool negated = at_.take_word("not");
  std::string name = at_.expect(TokenKind::name);
  check_test(name, at_);
  NodePtr made = at_.node(NodeKind::test, std::move(name), std::move(of));
  const Token& token = at_.now();
  const bool word = token.kind == TokenKind::name && token.text != "else" && token.text != "or" && token.text != "and";
  if (at_.is_word("is")) at_.fail("tests are not chained with is");
  if (at_.is_symbol("(")) {
    arguments(*made);
  } else if (word || token.kind == TokenKind::string || token.kind == TokenKind::integer ||
             token.kind == TokenKind::real || at_.is_symbol("[") || at_.is_symbol("{")) {
    const Cursor::Deeper deeper(at_);
    made->children.push_back(postfix(primary()));
    made->names.emplace_back();
  }
  return negated ? at_.node(NodeKind::negation, "", std::move(made)) : std::move(made);
}

void Expressions::arguments(Node& made) {
  at_.expect_symbol("(");
  while (!at_.is_symbol(")")) {
    std::string keyword;
    if (at_.is_symbol("*") || at_.is_symbol("**")) at_.unsupported("a call with * or **");
    if (at_.now().kind == TokenKind::name && at_.next().kind == TokenKind::symbol && at_.next().text == "=") {
      keyword = at_.now().text;
      at_.step();
      at_.step();
    } else if (!made.names.empty() && !made.names.back().empty()) {
      at_.fail("an argument without a name after one with a name");
    }
    if (!keyword.empty() && std::find(made.names.begin(), made.names.end(), keyword) != made.names.end())
      at_.fail(fmt::format("the argument {} appears twice", keyword));
    NodePtr value = expression();
    made.depth = std::max(made.depth, value->depth + 1);
    made.children.push_back(std::move(value));
    made.names.push_back(std::move(keyword));
    if (!at_.take_symbol(",")) break;
  }
  at_.expect_symbol(")");
}

}  // namespace longhaul::jinja
