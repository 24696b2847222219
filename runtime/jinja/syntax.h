// The tree of a template, and what makes it of the source.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "runtime/jinja/value.h"

namespace longhaul::jinja {

/// How mistakes are told: "NAME:LINE: ...".
struct Where {
  std::string name;
  Exit mistake;
  [[noreturn]] void fail(int line, const std::string& what) const;
};

enum class TokenKind { text, print_begin, print_end, block_begin, block_end, name, string, integer, real, symbol, end };

struct Token {
  TokenKind kind;
  std::string text;
  int line;
};

/// Throws UserError, as below.
std::vector<Token> tokenize(std::string_view source, const Where& where);

enum class NodeKind {
  // Statements.
  text,          // text
  print,         // the expression
  sequence,      // statements
  branch,        // condition, body, then what stands instead (a sequence, or another branch)
  loop,          // names = variables; iterable, condition or null, body, else or null
  set,           // names = variables, or text.names[0] of a namespace; value
  set_block,     // the same; body, then filters: a filter whose innermost child is null, or null
  macro,         // text = name, names = parameters; body, then the defaults of the last parameters
  call_block,    // names = parameters of caller; call, body, then defaults
  filter_block,  // body, then the filters
  with,          // names = variables; body, then their values
  break_loop,
  continue_loop,
  // Expressions.
  literal,        // value
  name,           // text
  list,           // elements
  tuple,          // elements
  dict,           // key, value, key, value, ...
  attribute,      // object; text: `a.k`
  item,           // object, key: `a[k]`
  slice,          // object, first, last, step; each may be null
  call,           // callee, arguments; names = "" or the keyword of each argument
  negation,       // `not`
  minus,          // -
  plus,           // +
  conjunction,    // `and`
  disjunction,    // `or`
  choice,         // `a if condition else b`: a, condition, b or null
  comparison,     // names = operators between the children
  binary,         // text = operator
  concatenation,  // ~
  test,           // `is`: text = name; of, arguments
  filter,         // text = name; of (null: the block's text), arguments; names as for call
};

/// One node for all: what the members hold depends on the kind.
struct Node {
  NodeKind kind;
  int line;
  std::string text;
  std::vector<std::unique_ptr<Node>> children;
  Value value;
  std::vector<std::string> names;
  bool of_namespace = false;  // of set and set_block
  int depth = 1;              // of the expression below
};

using NodePtr = std::unique_ptr<Node>;

/// Where the parser is.
class Cursor {
 public:
  Cursor(const std::vector<Token>& tokens, const Where& where) : tokens_(tokens), where_(where) {}

  const Token& now() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void step() { at_ += at_ + 1 < tokens_.size(); }
  [[noreturn]] void fail(const std::string& what) const { where_.fail(now().line, what); }
  [[noreturn]] void unsupported(const std::string& what) const { fail(what + " is not supported in chat templates"); }
  bool is(TokenKind kind, std::string_view text) const { return now().kind == kind && now().text == text; }
  bool is_word(std::string_view text) const { return is(TokenKind::name, text); }
  bool is_symbol(std::string_view text) const { return is(TokenKind::symbol, text); }
  bool take_word(std::string_view text) { return is_word(text) && (step(), true); }
  bool take_symbol(std::string_view text) { return is_symbol(text) && (step(), true); }
  std::string expect(TokenKind kind);
  void expect_symbol(std::string_view text);
  /// A node at this line whose depth is more than its children's, which may be null.
  NodePtr node(NodeKind kind, std::string text, std::vector<NodePtr> children) const;
  template <class... Children>
  NodePtr node(NodeKind kind, std::string text, Children... children) const {
    std::vector<NodePtr> list;
    (list.push_back(std::move(children)), ...);
    return node(kind, std::move(text), std::move(list));
  }

  /// One level of nesting, so that a hostile template cannot exhaust the stack.
  struct Deeper {
    explicit Deeper(Cursor& cursor);
    ~Deeper() { --cursor.depth_; }
    Cursor& cursor;
  };

 private:
  const std::vector<Token>& tokens_;
  const Where& where_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

/// An expression as Jinja2 reads it.
class Expressions {
 public:
  explicit Expressions(Cursor& cursor) : at_(cursor) {}
  /// Without commas.
  NodePtr expression(bool with_condition = true);
  /// One, or several with commas between: a tuple.
  NodePtr tuple(bool with_condition = true);
  /// The filters behind a | (or none), of `of`, which may be null.
  NodePtr filters(NodePtr of);
  /// Arguments in brackets, behind what `made` has already.
  void arguments(Node& made);

 private:
  NodePtr disjunction();
  NodePtr conjunction();
  NodePtr negation();
  NodePtr comparison();
  NodePtr sum();
  NodePtr concatenation();
  NodePtr product();
  NodePtr power();
  NodePtr unary(bool with_filter);
  NodePtr primary();
  NodePtr postfix(NodePtr of);
  NodePtr subscript(NodePtr of);
  NodePtr behind(NodePtr of);
  NodePtr filter(NodePtr of);
  NodePtr test(NodePtr of);
  NodePtr string();
  NodePtr number();
  NodePtr bracketed();
  NodePtr list();
  NodePtr dict();
  bool tuple_ends() const;

  Cursor& at_;
};

/// Throws UserError, as above.
NodePtr parse(const std::vector<Token>& tokens, const Where& where);

/// Throws UserError for a filter, or a test, that we do not have.
void check_filter(const std::string& name, const Cursor& at);
void check_test(const std::string& name, const Cursor& at);

}  // namespace longhaul::jinja
