// The tree of a template, and what makes it of the source.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/jinja.h"

namespace longhaul::jinja {

enum class TokenKind { text, print_begin, print_end, block_begin, block_end, name, string, integer, symbol, end };

struct Token {
  TokenKind kind;
  std::string text;
  int line;
};

/// Throws UserError{bad_model}, "NAME:LINE: ...".
std::vector<Token> tokenize(std::string_view source, const std::string& name);

enum class NodeKind {
  // Statements.
  text,      // text
  print,     // the expression
  sequence,  // statements
  branch,    // condition, body, then what stands instead (a sequence, or another branch)
  loop,      // text = variable; list, body
  set,       // text = variable; value
  // Expressions.
  literal,      // value
  name,         // text
  list,         // elements
  member,       // object, key (both `a['k']` and `a.k`)
  negation,     // `not`
  conjunction,  // `and`
  disjunction,  // `or`
  choice,       // `a if condition else b`: a, condition, b
  binary,       // text = operator
  test,         // `is`: text = name
  filter,       // text = name
  raise,        // message of raise_exception
};

/// One node for all: what `text` and `children` hold depends on the kind.
struct Node {
  NodeKind kind;
  int line;
  std::string text;
  std::vector<std::unique_ptr<Node>> children;
  Value value;
  int depth = 1;  // of the expression below
};

/// Throws UserError{bad_model}, "NAME:LINE: ...".
std::unique_ptr<Node> parse(const std::vector<Token>& tokens, const std::string& name);

}  // namespace longhaul::jinja
