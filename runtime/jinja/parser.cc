#include <algorithm>
#include <initializer_list>

#include "runtime/jinja/syntax.h"

namespace longhaul::jinja {
namespace {

constexpr int kDeepest = 200;   // nesting
constexpr int kLongest = 1000;  // operators in a row

class Parser {
 public:
  Parser(const std::vector<Token>& tokens, const Where& where) : at_(tokens, where), expressions_(at_) {}

  NodePtr run() {
    NodePtr body = statements({});
    if (at_.now().kind != TokenKind::end) at_.fail(fmt::format("{{% {} %}} without its beginning", at_.next().text));
    return body;
  }

 private:
  // Up to a block that begins with one of `ends`, or the end.
  NodePtr statements(std::initializer_list<std::string_view> ends) {
    const Cursor::Deeper deeper(at_);
    NodePtr body = at_.node(NodeKind::sequence, "");
    while (at_.now().kind != TokenKind::end) {
      if (at_.now().kind == TokenKind::text) {
        body->children.push_back(at_.node(NodeKind::text, at_.now().text));
        at_.step();
      } else if (at_.now().kind == TokenKind::print_begin) {
        at_.step();
        body->children.push_back(print());
      } else {
        const std::string& word = at_.next().text;
        if (std::find(ends.begin(), ends.end(), word) != ends.end()) return body;
        if (word.starts_with("end") || word == "elif" || word == "else") return body;  // the caller complains
        at_.step();
        body->children.push_back(statement());
      }
    }
    return body;
  }

  NodePtr print() {
    NodePtr value = expressions_.tuple();
    // Escaping is off, so marking text as safe changes nothing, where nothing is done with it afterwards.
    if (value->kind == NodeKind::filter && value->text == "safe" && value->children.size() == 1)
      value = at_.node(NodeKind::concatenation, "", std::move(value->children[0]));
    NodePtr made = at_.node(NodeKind::print, "", std::move(value));
    at_.expect(TokenKind::print_end);
    return made;
  }

  // At the word after {%; leaves the closing %} behind.
  NodePtr statement() {
    if (at_.take_word("if")) return branch();
    if (at_.take_word("for")) return loop();
    if (at_.take_word("set")) return set();
    if (at_.take_word("macro")) return macro();
    if (at_.take_word("call")) return call_block();
    if (at_.take_word("filter")) return filter_block();
    if (at_.take_word("with")) return with();
    if (at_.take_word("generation")) {
      // transformers marks the answer's tokens with it; the text is the same.
      at_.expect(TokenKind::block_end);
      NodePtr body = statements({"endgeneration"});
      end_block("endgeneration", "generation");
      return body;
    }
    for (const bool breaks : {true, false}) {
      if (!at_.take_word(breaks ? "break" : "continue")) continue;
      if (loops_ == 0) at_.fail("{% break %} or {% continue %} outside of a loop");
      at_.expect(TokenKind::block_end);
      return at_.node(breaks ? NodeKind::break_loop : NodeKind::continue_loop, "");
    }
    at_.unsupported(fmt::format("{{% {} %}}", at_.now().text));
  }

  void end_block(std::string_view word, std::string_view of) {
    if (at_.now().kind != TokenKind::block_begin || at_.next().text != word)
      at_.fail(fmt::format("{{% {} %}} without {{% {} %}}", of, word));
    at_.step();
    at_.step();
    // Jinja2 lets a macro's name stand at its end.
    if (word == "endmacro" && at_.now().kind == TokenKind::name) at_.step();
    at_.expect(TokenKind::block_end);
  }
  bool at_block(std::string_view word) const {
    return at_.now().kind == TokenKind::block_begin && at_.next().text == word;
  }

  NodePtr branch() {
    const Cursor::Deeper deeper(at_);
    NodePtr made = at_.node(NodeKind::branch, "", expressions_.tuple(false));
    at_.expect(TokenKind::block_end);
    made->children.push_back(statements({"elif", "else", "endif"}));
    if (at_block("elif")) {
      at_.step();
      at_.step();
      made->children.push_back(branch());
      return made;
    }
    if (at_block("else")) {
      at_.step();
      at_.step();
      at_.expect(TokenKind::block_end);
      made->children.push_back(statements({"endif"}));
    }
    end_block("endif", "if");
    return made;
  }

  std::vector<std::string> targets() {
    std::vector<std::string> names;
    if (at_.is_symbol("(")) at_.unsupported("a variable in brackets");
    do {
      if (at_.now().kind != TokenKind::name || at_.is_word("in")) break;  // a comma at the end
      names.push_back(at_.now().text);
      at_.step();
    } while (at_.take_symbol(","));
    if (names.empty()) at_.expect(TokenKind::name);
    for (const std::string& name : names)
      if (name == "true" || name == "false" || name == "none" || name == "True" || name == "False" || name == "None")
        at_.fail(fmt::format("{} cannot be set", name));
    return names;
  }

  NodePtr loop() {
    std::vector<std::string> names = targets();
    if (std::find(names.begin(), names.end(), "loop") != names.end()) at_.fail("loop cannot be the variable of a loop");
    if (!at_.take_word("in")) at_.fail("\"in\" expected in {% for %}");
    NodePtr iterable = expressions_.tuple(false);
    NodePtr condition = at_.take_word("if") ? expressions_.expression() : nullptr;
    if (at_.is_word("recursive")) at_.unsupported("a recursive loop");
    at_.expect(TokenKind::block_end);
    ++loops_;
    NodePtr body = statements({"else", "endfor"});
    --loops_;
    NodePtr otherwise;
    if (at_block("else")) {
      at_.step();
      at_.step();
      at_.expect(TokenKind::block_end);
      otherwise = statements({"endfor"});
    }
    end_block("endfor", "for");
    NodePtr made =
        at_.node(NodeKind::loop, "", std::move(iterable), std::move(condition), std::move(body), std::move(otherwise));
    made->names = std::move(names);
    return made;
  }

  NodePtr set() {
    NodePtr made = at_.node(NodeKind::set, "");
    made->names = targets();
    if (at_.take_symbol(".")) {
      if (made->names.size() != 1) at_.fail("one member of a namespace is set at a time");
      made->of_namespace = true;
      made->text = std::move(made->names[0]);
      made->names[0] = at_.expect(TokenKind::name);
      if (at_.is_symbol(".") || at_.is_symbol(",")) at_.unsupported("{% set %} of several members");
    }
    if (at_.is_symbol("[")) at_.unsupported("{% set %} of an element");
    if (at_.take_symbol("=")) {
      made->children.push_back(expressions_.tuple());
      at_.expect(TokenKind::block_end);
      return made;
    }
    made->kind = NodeKind::set_block;
    if (made->names.size() != 1) at_.fail("a block sets one variable");
    NodePtr filters = expressions_.filters(nullptr);
    at_.expect(TokenKind::block_end);
    made->children.push_back(statements({"endset"}));
    made->children.push_back(std::move(filters));
    end_block("endset", "set");
    return made;
  }

  // (a, b=1): names, and the defaults of the last ones behind what `made` has.
  void parameters(Node& made) {
    at_.expect_symbol("(");
    bool defaults = false;
    while (!at_.is_symbol(")")) {
      made.names.push_back(at_.expect(TokenKind::name));
      if (at_.take_symbol("=")) {
        made.children.push_back(expressions_.expression());
        defaults = true;
      } else if (defaults) {
        at_.fail("a parameter without a default after one with a default");
      }
      if (!at_.take_symbol(",")) break;
    }
    at_.expect_symbol(")");
  }

  NodePtr body_of(std::string_view end, std::string_view of) {
    at_.expect(TokenKind::block_end);
    const int outer = std::exchange(loops_, 0);
    NodePtr body = statements({end});
    loops_ = outer;
    end_block(end, of);
    return body;
  }

  NodePtr macro() {
    NodePtr made = at_.node(NodeKind::macro, at_.expect(TokenKind::name), NodePtr());
    parameters(*made);
    made->children[0] = body_of("endmacro", "macro");
    return made;
  }

  NodePtr call_block() {
    NodePtr made = at_.node(NodeKind::call_block, "", NodePtr(), NodePtr());
    if (at_.is_symbol("(")) parameters(*made);
    made->children[0] = expressions_.expression();
    if (made->children[0]->kind != NodeKind::call) at_.fail("{% call %} needs a call");
    made->children[1] = body_of("endcall", "call");
    return made;
  }

  NodePtr filter_block() {
    // The first filter stands without a |.
    NodePtr first = at_.node(NodeKind::filter, at_.expect(TokenKind::name), NodePtr());
    check_filter(first->text, at_);
    if (at_.is_symbol("(")) expressions_.arguments(*first);
    NodePtr filters = expressions_.filters(std::move(first));
    at_.expect(TokenKind::block_end);
    NodePtr body = statements({"endfilter"});
    end_block("endfilter", "filter");
    return at_.node(NodeKind::filter_block, "", std::move(body), std::move(filters));
  }

  NodePtr with() {
    NodePtr made = at_.node(NodeKind::with, "", NodePtr());
    while (at_.now().kind != TokenKind::block_end) {
      made->names.push_back(at_.expect(TokenKind::name));
      at_.expect_symbol("=");
      made->children.push_back(expressions_.expression());
      if (!at_.take_symbol(",")) break;
    }
    at_.expect(TokenKind::block_end);
    made->children[0] = statements({"endwith"});
    end_block("endwith", "with");
    return made;
  }

  Cursor at_;
  Expressions expressions_;
  int loops_ = 0;  // that the statement stands in
};

}  // namespace

void Where::fail(int line, const std::string& what) const { throw UserError(mistake, "{}:{}: {}", name, line, what); }

std::string Cursor::expect(TokenKind kind) {
  const auto words = [](TokenKind of) {
    return of == TokenKind::block_end ? "%}" : of == TokenKind::print_end ? "}}" : "a name";
  };
  if (now().kind != kind) fail(fmt::format("{} expected, not {:?}", words(kind), now().text));
  std::string text = now().text;
  step();
  return text;
}

void Cursor::expect_symbol(std::string_view text) {
  if (!take_symbol(text)) fail(fmt::format("{:?} expected, not {:?}", text, now().text));
}

NodePtr Cursor::node(NodeKind kind, std::string text, std::vector<NodePtr> children) const {
  auto made = std::make_unique<Node>(Node{.kind = kind, .line = now().line, .text = std::move(text)});
  for (const NodePtr& child : children)
    if (child) made->depth = std::max(made->depth, child->depth + 1);
  if (made->depth > kLongest) fail("too long an expression");
  made->children = std::move(children);
  return made;
}

Cursor::Deeper::Deeper(Cursor& cursor) : cursor(cursor) {
  if (++cursor.depth_ > kDeepest) {
    --cursor.depth_;
    cursor.fail("nested too deeply");
  }
}

NodePtr parse(const std::vector<Token>& tokens, const Where& where) { return Parser(tokens, where).run(); }

}  // namespace longhaul::jinja
