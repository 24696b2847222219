#include <algorithm>
#include <initializer_list>

#include "kernels/base/error.h"
#include "runtime/jinja_syntax.h"

namespace longhaul::jinja {
namespace {

using NodePtr = std::unique_ptr<Node>;

// So that a hostile template cannot exhaust the stack:
constexpr int kDeepest = 200;   // nesting
constexpr int kLongest = 2000;  // operators in a row

class Parser {
 public:
  Parser(const std::vector<Token>& tokens, const std::string& name) : tokens_(tokens), name_(name) {}

  NodePtr run() {
    NodePtr body = statements({});
    if (now().kind != TokenKind::end) fail(fmt::format("{{% {} %}} without its beginning", tokens_[at_ + 1].text));
    return body;
  }

 private:
  struct Deeper {
    explicit Deeper(Parser& parser) : parser(parser) {
      if (++parser.depth_ > kDeepest) parser.fail("nested too deeply");
    }
    ~Deeper() { --parser.depth_; }
    Parser& parser;
  };

  const Token& now() const { return tokens_[at_]; }
  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(Exit::bad_model, "{}:{}: {}", name_, now().line, what);
  }
  [[noreturn]] void unsupported(const std::string& what) const { fail(what + " is not supported in chat templates"); }
  bool is(TokenKind kind, std::string_view text) const { return now().kind == kind && now().text == text; }
  bool is_word(std::string_view text) const { return is(TokenKind::name, text); }
  bool is_symbol(std::string_view text) const { return is(TokenKind::symbol, text); }
  bool take(TokenKind kind, std::string_view text) { return is(kind, text) && (++at_, true); }
  bool take_word(std::string_view text) { return take(TokenKind::name, text); }
  bool take_symbol(std::string_view text) { return take(TokenKind::symbol, text); }
  static const char* words(TokenKind kind) {
    return kind == TokenKind::block_end ? "%}" : kind == TokenKind::print_end ? "}}" : "a name";
  }
  std::string expect(TokenKind kind) {
    if (now().kind != kind) fail(fmt::format("{} expected, not {:?}", words(kind), now().text));
    return tokens_[at_++].text;
  }
  void expect_symbol(std::string_view text) {
    if (!take_symbol(text)) fail(fmt::format("{:?} expected, not {:?}", text, now().text));
  }
  template <class... Children>
  NodePtr node(NodeKind kind, std::string text, Children... children) const {
    auto made = std::make_unique<Node>(Node{kind, now().line, std::move(text), {}, {}});
    ((made->depth = std::max(made->depth, children->depth + 1)), ...);
    if (made->depth > kLongest) fail("too long an expression");
    (made->children.push_back(std::move(children)), ...);
    return made;
  }

  // Up to a block that begins with one of `ends`, or the end.
  NodePtr statements(std::initializer_list<std::string_view> ends) {
    const Deeper deeper(*this);
    NodePtr body = node(NodeKind::sequence, "");
    while (now().kind != TokenKind::end) {
      if (now().kind == TokenKind::text) {
        body->children.push_back(node(NodeKind::text, now().text));
        ++at_;
      } else if (now().kind == TokenKind::print_begin) {
        ++at_;
        body->children.push_back(node(NodeKind::print, "", expression()));
        expect(TokenKind::print_end);
      } else {
        const std::string& word = tokens_[at_ + 1].text;
        if (std::find(ends.begin(), ends.end(), word) != ends.end()) return body;
        if (word.starts_with("end") || word.starts_with("el")) return body;  // the caller complains
        ++at_;
        body->children.push_back(statement());
      }
    }
    return body;
  }

  // At the word after {%; leaves the closing %} behind.
  NodePtr statement() {
    if (take_word("if")) return branch();
    if (take_word("for")) return loop();
    if (take_word("set")) {
      std::string variable = expect(TokenKind::name);
      if (!take_symbol("=")) unsupported(fmt::format("{{% set {}{} ... %}}", variable, now().text));
      NodePtr made = node(NodeKind::set, std::move(variable), expression());
      expect(TokenKind::block_end);
      return made;
    }
    unsupported(fmt::format("{{% {} %}}", now().text));
  }

  void end_block(std::string_view word, std::string_view of) {
    if (now().kind != TokenKind::block_begin || tokens_[at_ + 1].text != word)
      fail(fmt::format("{{% {} %}} without {{% {} %}}", of, word));
    at_ += 2;
    expect(TokenKind::block_end);
  }

  NodePtr branch() {
    const Deeper deeper(*this);
    NodePtr made = node(NodeKind::branch, "", expression());
    expect(TokenKind::block_end);
    made->children.push_back(statements({"elif", "else", "endif"}));
    const std::string word = now().kind == TokenKind::end ? "" : tokens_[at_ + 1].text;
    if (word == "elif") {
      at_ += 2;
      made->children.push_back(branch());
      return made;
    }
    if (word == "else") {
      at_ += 2;
      expect(TokenKind::block_end);
      made->children.push_back(statements({"endif"}));
    }
    end_block("endif", "if");
    return made;
  }

  NodePtr loop() {
    std::string variable = expect(TokenKind::name);
    if (!take_word("in")) unsupported("a for loop over several variables");
    NodePtr made = node(NodeKind::loop, std::move(variable), disjunction());
    if (now().kind != TokenKind::block_end) unsupported(fmt::format("{:?} in a for loop", now().text));
    expect(TokenKind::block_end);
    made->children.push_back(statements({"endfor"}));
    if (now().kind != TokenKind::end && tokens_[at_ + 1].text == "else") unsupported("{% else %} of a for loop");
    end_block("endfor", "for");
    return made;
  }

  NodePtr expression() {
    const Deeper deeper(*this);
    NodePtr made = disjunction();
    if (!take_word("if")) return made;
    NodePtr condition = disjunction();
    NodePtr otherwise = take_word("else") ? expression() : node(NodeKind::literal, "");
    return node(NodeKind::choice, "", std::move(made), std::move(condition), std::move(otherwise));
  }

  NodePtr disjunction() {
    NodePtr left = conjunction();
    while (take_word("or")) left = node(NodeKind::disjunction, "", std::move(left), conjunction());
    return left;
  }

  NodePtr conjunction() {
    NodePtr left = negation();
    while (take_word("and")) left = node(NodeKind::conjunction, "", std::move(left), negation());
    return left;
  }

  NodePtr negation() {
    const Deeper deeper(*this);
    return take_word("not") ? node(NodeKind::negation, "", negation()) : comparison();
  }

  NodePtr comparison() {
    NodePtr left = sum();
    const auto compares = [&] {
      return is_word("in") || is_word("not") ||
             (now().kind == TokenKind::symbol &&
              (now().text == "==" || now().text == "!=" || now().text.starts_with('<') || now().text.starts_with('>')));
    };
    if (!compares()) return left;
    const bool negated = take_word("not");
    if (negated && !is_word("in")) fail(fmt::format("{:?} after not", now().text));
    std::string op = tokens_[at_++].text;
    left = node(NodeKind::binary, std::move(op), std::move(left), sum());
    if (compares()) unsupported("a chain of comparisons");
    return negated ? node(NodeKind::negation, "", std::move(left)) : std::move(left);
  }

  // Jinja2 binds ~ closer than + and -, and the products closer than ~.
  NodePtr sum() {
    return left_to_right({"+", "-"}, [this] { return concatenation(); });
  }
  NodePtr concatenation() {
    return left_to_right({"~"}, [this] { return product(); });
  }
  NodePtr product() {
    return left_to_right({"*", "//", "%"}, [this] { return postfix(); });
  }

  template <class Operand>
  NodePtr left_to_right(std::initializer_list<std::string_view> operators, Operand operand) {
    NodePtr left = operand();
    while (now().kind == TokenKind::symbol &&
           std::find(operators.begin(), operators.end(), now().text) != operators.end()) {
      std::string op = tokens_[at_++].text;
      left = node(NodeKind::binary, std::move(op), std::move(left), operand());
    }
    return left;
  }

  NodePtr postfix() {
    NodePtr made = primary();
    for (;;) {
      if (take_symbol(".")) {
        NodePtr key = node(NodeKind::literal, "");
        key->value = expect(TokenKind::name);
        made = node(NodeKind::member, "", std::move(made), std::move(key));
      } else if (take_symbol("[")) {
        if (is_symbol(":")) unsupported("a slice");
        NodePtr key = expression();
        if (is_symbol(":")) unsupported("a slice");
        expect_symbol("]");
        made = node(NodeKind::member, "", std::move(made), std::move(key));
      } else if (take_symbol("|")) {
        made = named(NodeKind::filter, "the filter", {"trim", "length", "upper", "lower"}, std::move(made));
      } else if (take_word("is")) {
        const bool negated = take_word("not");
        made = named(NodeKind::test, "the test", {"defined", "undefined", "none", "string"}, std::move(made));
        if (negated) made = node(NodeKind::negation, "", std::move(made));
      } else if (is_symbol("(")) {
        const NodePtr& callee = made->kind == NodeKind::member ? made->children[1] : made;
        unsupported(fmt::format("the call {}()", callee->kind == NodeKind::literal && callee->value.as<std::string>()
                                                     ? *callee->value.as<std::string>()
                                                     : callee->text));
      } else {
        return made;
      }
    }
  }

  NodePtr named(NodeKind kind, const char* what, std::initializer_list<std::string_view> known, NodePtr of) {
    if (std::find(known.begin(), known.end(), now().text) == known.end())
      unsupported(fmt::format("{} {}", what, now().text));
    NodePtr made = node(kind, now().text, std::move(of));
    ++at_;
    if (is_symbol("(")) unsupported(fmt::format("{} {} with arguments", what, made->text));
    return made;
  }

  NodePtr primary() {
    const Token& token = now();
    NodePtr made = node(NodeKind::literal, "");
    if (token.kind == TokenKind::string) {
      std::string text;  // strings side by side are one
      while (now().kind == TokenKind::string) text += tokens_[at_++].text;
      made->value = std::move(text);
      return made;
    }
    const bool minus = token.kind == TokenKind::symbol && token.text == "-";
    if (const Token& number = tokens_[at_ + minus]; number.kind == TokenKind::integer) {
      at_ += minus + 1;
      made->value = std::int64_t{std::stoll(number.text)} * (minus ? -1 : 1);
      return made;
    }
    if (token.kind == TokenKind::name) return word();
    if (take_symbol("(")) {
      made = expression();
      if (is_symbol(",")) unsupported("a tuple");
      expect_symbol(")");
      return made;
    }
    if (take_symbol("[")) {
      made = node(NodeKind::list, "");
      while (!take_symbol("]")) {
        made->children.push_back(expression());
        if (!is_symbol("]")) expect_symbol(",");
      }
      return made;
    }
    if (token.kind == TokenKind::symbol) unsupported(fmt::format("{:?} here", token.text));
    fail("an expression is missing");
  }

  NodePtr word() {
    const std::string& text = now().text;
    ++at_;
    NodePtr made = node(NodeKind::literal, "");
    if (text == "true" || text == "True" || text == "false" || text == "False")
      return made->value = (text[0] | 0x20) == 't', std::move(made);
    if (text == "none" || text == "None") return made->value = None{}, std::move(made);
    if (text == "raise_exception" && take_symbol("(")) {
      made = node(NodeKind::raise, "", expression());
      expect_symbol(")");
      return made;
    }
    return node(NodeKind::name, text);
  }

  const std::vector<Token>& tokens_;
  const std::string& name_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::unique_ptr<Node> parse(const std::vector<Token>& tokens, const std::string& name) {
  return Parser(tokens, name).run();
}

}  // namespace longhaul::jinja
