#include "runtime/jinja.h"

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/jinja_runtime.h"
#include "runtime/utf8.h"

namespace longhaul::jinja {
namespace {

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

/// The variable `loop`.
struct Loop : Function {
  Loop() : Function("loop", [](Runtime&, Arguments&) -> Value { mistake("a recursive loop is not supported"); }) {}
  std::string type() const override { return "LoopContext"; }
  std::optional<Value> member(std::string_view name) override {
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
  List elements;
  std::int64_t at = 0;
  std::optional<List> last;
  Function cycle{"cycle", {}}, changed{"changed", {}};
};

enum class Flow { on, breaks, continues };

class Interpreter {
 public:
  Interpreter(std::size_t input_bytes, std::optional<std::tm> now) : runtime_(input_bytes, now), root_(nullptr) {}

  int line() const { return line_; }

  std::string run(const Node& node, const Map& variables) {
    root_.variables = variables;
    scope_ = &root_;
    execute(node);
    return std::move(out_);
  }

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

  void print(std::string_view text) {
    runtime_.step(text.size());
    runtime_.take(text.size());
    out_ += text;
  }

  // What executing a body prints.
  std::string printed(const Node& body) {
    std::string outer = std::exchange(out_, {});
    execute(body);
    return std::exchange(out_, std::move(outer));
  }

  Flow execute(const Node& node) {
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

  std::string inner_printed(const Node& body) {
    const Inside inside(*this, scope_);
    return printed(body);
  }

  void assign(const std::vector<std::string>& names, Value value) {
    if (names.size() == 1) return scope_->set(names[0], std::move(value));
    List parts = runtime_.elements(value);
    if (parts.size() != names.size())
      mistake(fmt::format("{} values to unpack (expected {})", parts.size() < names.size() ? "not enough" : "too many",
                          names.size()));
    for (std::size_t i = 0; i < names.size(); ++i) scope_->set(names[i], std::move(parts[i]));
  }

  void set(const Node& node, Value value) {
    if (!node.of_namespace) return assign(node.names, std::move(value));
    auto* space = dynamic_cast<Namespace*>(look_up(node.text).object());
    if (!space) mistake("cannot assign attribute on non-namespace object");
    runtime_.step(16 * space->members.items.size());
    runtime_.take(sizeof(Value) + node.names[0].size());
    space->members.put(node.names[0], std::move(value));
  }

  void set_block(const Node& node) {
    Value value = runtime_.text(inner_printed(*node.children[0]));
    if (node.children[1]) value = filtered(*node.children[1], value);
    set(node, std::move(value));
  }

  void loop(const Node& node) {
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

  Flow with(const Node& node) {
    // The values do not see each other.
    List values;
    for (std::size_t i = 1; i < node.children.size(); ++i) values.push_back(evaluate(*node.children[i]));
    const Inside inside(*this, scope_);
    for (std::size_t i = 0; i < values.size(); ++i) scope_->set(node.names[i], std::move(values[i]));
    return execute(*node.children[0]);
  }

  // A function of the node's parameters; the body is child `body`, defaults are the children behind it.
  Value macro(const Node& node, const std::string& name, std::size_t body) {
    Scope* seen = scope_;
    for (Scope* scope = scope_; scope; scope = scope->outer) scope->captured = true;
    return runtime_.own<Function>(name, [this, &node, name, body, seen](Runtime&, Arguments& arguments) {
      return call_macro(node, name, body, seen, arguments);
    });
  }

  Value call_macro(const Node& node, const std::string& name, std::size_t body, Scope* seen, Arguments& arguments) {
    const Deeper deeper(runtime_);
    const Inside inside(*this, seen);
    const std::size_t defaults = node.names.size() - (node.children.size() - body - 1);
    for (std::size_t i = 0; i < node.names.size(); ++i) {
      auto given = arguments.get(i, node.names[i]);
      if (!given && i >= defaults) given = evaluate(*node.children[body + 1 + i - defaults]);
      scope_->set(node.names[i], std::move(given).value_or(Value()));
    }
    if (auto given = take_named(arguments, "caller")) scope_->set("caller", *std::move(given));
    // The rest, for macros that name it.
    List rest;
    for (std::size_t i = node.names.size(); i < arguments.positional.size(); ++i)
      rest.push_back(arguments.positional[i]);
    if (!rest.empty() && !mentions(*node.children[body], "varargs"))
      mistake(fmt::format("macro '{}' takes not more than {} argument(s)", name, node.names.size()));
    if (!arguments.named.empty() && !mentions(*node.children[body], "kwargs"))
      mistake(fmt::format("macro '{}' takes no keyword argument '{}'", name, arguments.named[0].first));
    scope_->set("varargs", runtime_.sequence(Sequence::tuple, std::move(rest)));
    scope_->set("kwargs", Value(Map(arguments.named)));
    return runtime_.text(printed(*node.children[body]));
  }

  static std::optional<Value> take_named(Arguments& arguments, std::string_view name) {
    for (auto one = arguments.named.begin(); one != arguments.named.end(); ++one) {
      if (one->first != name) continue;
      Value value = std::move(one->second);
      arguments.named.erase(one);
      return value;
    }
    return std::nullopt;
  }

  static bool mentions(const Node& node, std::string_view name) {
    if (node.kind == NodeKind::name && node.text == name) return true;
    return std::any_of(node.children.begin(), node.children.end(),
                       [&](const NodePtr& child) { return child && mentions(*child, name); });
  }

  void call_block(const Node& node) {
    const Value caller = macro(node, "caller", 1);
    const Node& call = *node.children[0];
    const Value callee = evaluate(*call.children[0]);
    Arguments arguments = arguments_of(call);
    arguments.named.emplace_back("caller", caller);
    print(runtime_.str(called(call, callee, arguments)));
  }

  Value evaluate(const Node& node) {
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

  Value list(const Node& node) {
    List elements;
    for (const auto& element : node.children) elements.push_back(evaluate(*element));
    return runtime_.sequence(node.kind == NodeKind::list ? Sequence::list : Sequence::tuple, std::move(elements));
  }

  Value dict(const Node& node) {
    Dict dict;
    for (std::size_t i = 0; i < node.children.size(); i += 2) {
      Value key = evaluate(*node.children[i]);
      if (key.dict() || (key.sequence() && key.sequence()->kind != Sequence::tuple))
        mistake(fmt::format("unhashable type: '{}'", key.type()));
      runtime_.step(16 * dict.items.size());
      dict.put(std::move(key), evaluate(*node.children[i + 1]));
    }
    return runtime_.dict(std::move(dict));
  }

  Value attribute(const Node& node) {
    const Value of = evaluate(*node.children[0]);
    line_ = node.line;
    return runtime_.attribute(of, node.text);
  }

  Value item(const Node& node) {
    const Value of = evaluate(*node.children[0]), key = evaluate(*node.children[1]);
    line_ = node.line;
    return runtime_.item(of, key);
  }

  Value slice(const Node& node) {
    const Value of = evaluate(*node.children[0]);
    std::array<Value, 3> parts{None{}, None{}, None{}};
    for (std::size_t i = 0; i < 3; ++i)
      if (node.children[i + 1]) parts[i] = evaluate(*node.children[i + 1]);
    return runtime_.slice(of, parts[0], parts[1], parts[2]);
  }

  Value sign(const Node& node) {
    const Value of = evaluate(*node.children[0]);
    if (!of.number())
      mistake(fmt::format("bad operand type for unary {}: '{}'", node.kind == NodeKind::plus ? '+' : '-', of.type()));
    if (of.whole()) return runtime_.binary(node.kind == NodeKind::plus ? "+" : "-", std::int64_t{0}, of);
    return node.kind == NodeKind::plus ? *of.real() : -*of.real();
  }

  Value junction(const Node& node) {
    Value left = evaluate(*node.children[0]);
    return left.truth() == (node.kind == NodeKind::disjunction) ? left : evaluate(*node.children[1]);
  }

  Value comparison(const Node& node) {
    Value left = evaluate(*node.children[0]);
    for (std::size_t i = 0; i < node.names.size(); ++i) {
      Value right = evaluate(*node.children[i + 1]);
      if (!compare(node.names[i], left, right)) return false;
      left = std::move(right);
    }
    return true;
  }

  bool compare(const std::string& op, const Value& a, const Value& b) {
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

  Value binary(const Node& node) {
    const Value left = evaluate(*node.children[0]), right = evaluate(*node.children[1]);
    line_ = node.line;
    return runtime_.binary(node.text, left, right);
  }

  Value concatenation(const Node& node) {
    std::string text;
    for (const auto& part : node.children) {
      const std::string next = runtime_.str(evaluate(*part));
      runtime_.take(next.size());
      text += next;
    }
    return runtime_.text(std::move(text));
  }

  Arguments arguments_of(const Node& node) {
    Arguments arguments;
    for (std::size_t i = 0; i < node.names.size(); ++i) {
      Value value = evaluate(*node.children[i + 1]);
      if (node.names[i].empty()) arguments.positional.push_back(std::move(value));
      else arguments.named.emplace_back(node.names[i], std::move(value));
    }
    return arguments;
  }

  Value call(const Node& node) {
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

  Value called(const Node& node, const Value& function, Arguments& arguments) {
    line_ = node.line;
    if (function.undefined()) {
      const Node& callee = *node.children[0];
      mistake(callee.text.empty() ? "something undefined is called" : fmt::format("'{}' is undefined", callee.text));
    }
    return runtime_.call(function, arguments);
  }

  Value test(const Node& node) {
    const Value of = evaluate(*node.children[0]);
    Arguments arguments = arguments_of(node);
    line_ = node.line;
    return runtime_.test(node.text, of, arguments);
  }

  // A filter of the value below it, or of `block` where none is below.
  Value filtered(const Node& node, const Value& block) {
    const Deeper deeper(runtime_);
    const Value of = !node.children[0]                            ? block
                     : node.children[0]->kind == NodeKind::filter ? filtered(*node.children[0], block)
                                                                  : evaluate(*node.children[0]);
    Arguments arguments = arguments_of(node);
    line_ = node.line;
    return runtime_.filter(node.text, of, arguments);
  }

  Value look_up(const std::string& name) {
    for (Scope* scope = scope_; scope; scope = scope->outer)
      if (const Value* found = scope->find(name)) return *found;
    if (auto function = global_function(runtime_, name)) return *std::move(function);
    return {};
  }

  Runtime runtime_;
  Scope root_;
  Scope* scope_ = nullptr;
  std::vector<std::unique_ptr<Scope>> kept_;
  std::string out_;
  int line_ = 0;
};

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

std::string Template::render(const Map& variables, std::optional<std::tm> now) const {
  std::size_t bytes = 0;
  for (const auto& [name, value] : variables) bytes += bytes_of(value);
  Interpreter interpreter(bytes, now);
  try {
    return interpreter.run(*root_, variables);
  } catch (const Raised& raised) {
    throw UserError(Exit::usage, "{}: {}", name_, printable(raised.what));
  } catch (const Mistake& mistake) {
    throw UserError(mistake_, "{}:{}: {}", name_, interpreter.line(), printable(mistake.what));
  }
}

}  // namespace longhaul::jinja
