// Runs the tree of a template: statements here, expressions in jinja_evaluate.cc.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/jinja/runtime.h"
#include "runtime/jinja/template.h"

namespace longhaul::jinja {

/// The variables of a part of the template, inside those of another.
struct Scope {
  explicit Scope(Scope* outer) : outer(outer) {}
  Scope* outer;
  std::vector<std::pair<std::string, Value>> variables;
  bool captured = false;  // a macro sees it

  Value* find(std::string_view name) {
    for (auto& [known, value] : variables)
      if (known == name) return &value;
    return nullptr;
  }
  void set(const std::string& name, Value value) {
    if (Value* known = find(name)) *known = std::move(value);
    else variables.emplace_back(name, std::move(value));
  }
};

enum class Flow { on, breaks, continues };

class Interpreter {
 public:
  Interpreter(std::size_t input_bytes, std::optional<std::tm> now, const Limits& limits)
      : runtime_(input_bytes, now, limits), root_(nullptr) {}

  int line() const { return line_; }

  std::string run(const Node& node, const Map& variables);

 private:
  struct Deeper {
    explicit Deeper(Runtime& runtime) : runtime(runtime) { runtime.enter(); }
    ~Deeper() { runtime.leave(); }
    Runtime& runtime;
  };

  // Variables that end with a part of the template; what a macro sees lasts as long as the rendering.
  class Inside {
   public:
    Inside(Interpreter& owner, Scope* outer) : owner_(owner), before_(owner.scope_) {
      owner.runtime_.take(sizeof(Scope));
      scope_ = std::make_unique<Scope>(outer);
      owner.scope_ = scope_.get();
    }
    ~Inside() {
      owner_.scope_ = before_;
      if (scope_->captured) owner_.kept_.push_back(std::move(scope_));
    }

   private:
    Interpreter& owner_;
    Scope* before_;
    std::unique_ptr<Scope> scope_;
  };

  void print(std::string_view text);
  // What executing a body prints.
  std::string printed(const Node& body);
  Flow execute(const Node& node);
  std::string inner_printed(const Node& body);
  void assign(const std::vector<std::string>& names, Value value);
  void set(const Node& node, Value value);
  void set_block(const Node& node);
  void loop(const Node& node);
  Flow with(const Node& node);
  // A function of the node's parameters; the body is child `body`, defaults are the children behind it.
  Value macro(const Node& node, const std::string& name, std::size_t body);
  Value call_macro(const Node& node, const std::string& name, std::size_t body, Scope* seen, Arguments& arguments);
  static bool mentions(const Node& node, std::string_view name);
  void call_block(const Node& node);

  Value evaluate(const Node& node);
  Value list(const Node& node);
  Value dict(const Node& node);
  Value attribute(const Node& node);
  Value item(const Node& node);
  Value slice(const Node& node);
  Value sign(const Node& node);
  Value junction(const Node& node);
  Value comparison(const Node& node);
  bool compare(const std::string& op, const Value& a, const Value& b);
  Value binary(const Node& node);
  Value concatenation(const Node& node);
  Arguments arguments_of(const Node& node);
  Value call(const Node& node);
  Value called(const Node& node, const Value& function, Arguments& arguments);
  Value test(const Node& node);
  // A filter of the value below it, or of `block` where none is below.
  Value filtered(const Node& node, const Value& block);
  Value look_up(const std::string& name);

  Runtime runtime_;
  Scope root_;
  Scope* scope_ = nullptr;
  std::vector<std::unique_ptr<Scope>> kept_;
  std::string out_;
  int line_ = 0;
};

}  // namespace longhaul::jinja
