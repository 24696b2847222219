#include "runtime/jinja.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "runtime/jinja_syntax.h"
#include "runtime/regex.h"
#include "runtime/tokenizer.h"
#include "runtime/utf8.h"

namespace longhaul::jinja {
namespace {

constexpr std::int64_t kMostSteps = 10'000'000;  // evaluated nodes; real templates take some dozens a message

// What Python's str.strip() takes away. A guard byte is no character: it goes with the blanks around it, and stays
// after a character that stays.
std::string trim(std::string_view text) {
  static const Regex kSpace(Regex::Kind::pattern, "[\\s\\x1c-\\x1f]", "trim");
  Regex::Matcher space(kSpace);
  const auto goes = [&](std::string_view c) { return c[0] == Tokenizer::kSpecialGuard || space.in(c); };
  while (!text.empty() && goes(character_at(text, 0))) text.remove_prefix(character_at(text, 0).size());
  std::size_t end = text.size();
  while (end > 0 && goes(character_before(text, end))) end -= character_before(text, end).size();
  while (end < text.size() && text[end] == Tokenizer::kSpecialGuard) ++end;
  return std::string(text.substr(0, end));
}

class Interpreter {
 public:
  Interpreter(const std::string& name, Map variables) : name_(name) { scopes_.push_back(std::move(variables)); }
  std::string run(const Node& root) {
    execute(root);
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const Node& at, const std::string& what) const {
    throw UserError(Exit::bad_model, "{}:{}: {}", name_, at.line, what);
  }
  void step(const Node& at) {
    if (++steps_ > kMostSteps) fail(at, "the template runs too long");
  }

  void execute(const Node& node) {
    step(node);
    switch (node.kind) {
      case NodeKind::text:
        out_ += node.text;
        break;
      case NodeKind::print:
        out_ += text_of(evaluate(*node.children[0]), node);
        break;
      case NodeKind::set:
        scopes_.back().insert_or_assign(node.text, evaluate(*node.children[0]));
        break;
      case NodeKind::loop:
        loop(node);
        break;
      case NodeKind::branch:
        if (evaluate(*node.children[0]).truth()) execute(*node.children[1]);
        else if (node.children.size() > 2) execute(*node.children[2]);
        break;
      default:
        for (const auto& child : node.children) execute(*child);
    }
  }

  void loop(const Node& node) {
    const Value over = evaluate(*node.children[0]);
    if (over.as<Undefined>()) return;
    if (!over.list()) fail(node, fmt::format("cannot loop over {}", over.kind()));
    const auto count = static_cast<std::int64_t>(over.list()->size());
    for (std::int64_t i = 0; i < count; ++i) {
      // Each round has its own variables, as in Jinja2.
      scopes_.push_back({{node.text, (*over.list())[i]},
                         {"loop", Map{{"index", i + 1},
                                      {"index0", i},
                                      {"revindex", count - i},
                                      {"revindex0", count - i - 1},
                                      {"length", count},
                                      {"first", i == 0},
                                      {"last", i + 1 == count}}}});
      execute(*node.children[1]);
      scopes_.pop_back();
    }
  }

  Value evaluate(const Node& node) {
    step(node);
    const auto child = [&](std::size_t i) { return evaluate(*node.children[i]); };
    switch (node.kind) {
      case NodeKind::literal:
        return node.value;
      case NodeKind::name:
        return look_up(node.text);
      case NodeKind::list: {
        List list;
        for (const auto& element : node.children) list.push_back(evaluate(*element));
        return list;
      }
      case NodeKind::member:
        return member(node);
      case NodeKind::negation:
        return !child(0).truth();
      case NodeKind::conjunction:
      case NodeKind::disjunction: {
        Value left = child(0);
        return left.truth() == (node.kind == NodeKind::disjunction) ? left : child(1);
      }
      case NodeKind::choice:
        return child(1).truth() ? child(0) : child(2);
      case NodeKind::binary:
        return binary(node, child(0), child(1));
      case NodeKind::test:
        return test(node.text, child(0));
      case NodeKind::filter:
        return filter(node, child(0));
      case NodeKind::raise:
        throw UserError(Exit::usage, "{}: {}", name_, text_of(child(0), node));
      default:
        fail(node, "not an expression");
    }
  }

  Value look_up(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
      if (const auto found = scope->find(name); found != scope->end()) return found->second;
    return {};
  }

  Value member(const Node& node) {
    const Value object = evaluate(*node.children[0]), key = evaluate(*node.children[1]);
    const auto* text = key.as<std::string>();
    if (object.as<Undefined>()) fail(node, fmt::format("{} of something undefined", text ? *text : "an element"));
    if (object.map() && text) {
      const auto found = object.map()->find(*text);
      return found == object.map()->end() ? Value() : found->second;
    }
    if (const auto* index = key.as<std::int64_t>(); object.list() && index) {
      const auto size = static_cast<std::int64_t>(object.list()->size());
      const std::int64_t at = *index < 0 ? *index + size : *index;
      return at < 0 || at >= size ? Value() : (*object.list())[at];
    }
    if (text && !object.map()) return {};
    fail(node, fmt::format("{} cannot be indexed by {}", object.kind(), key.kind()));
  }

  Value binary(const Node& node, const Value& left, const Value& right) {
    const std::string& op = node.text;
    if (op == "==") return equal(left, right);
    if (op == "!=") return !equal(left, right);
    if (op == "in") return contains(node, right, left);
    if (op == "~") return text_of(left, node) + text_of(right, node);
    const auto *a = left.as<std::string>(), *b = right.as<std::string>();
    if (a && b) {
      if (op == "+") return *a + *b;
      if (const auto result = compare(op, *a, *b)) return *result;
    }
    const auto *x = left.as<std::int64_t>(), *y = right.as<std::int64_t>();
    if (x && y) {
      if (const auto result = compare(op, *x, *y)) return *result;
      return arithmetic(node, *x, *y);
    }
    if (left.list() && right.list() && op == "+") {
      List both = *left.list();
      both.insert(both.end(), right.list()->begin(), right.list()->end());
      return both;
    }
    fail(node, fmt::format("{} {} {} has no meaning", left.kind(), op, right.kind()));
  }

  template <class T>
  static std::optional<bool> compare(const std::string& op, const T& a, const T& b) {
    if (op == "<") return a < b;
    if (op == ">") return a > b;
    if (op == "<=") return a <= b;
    if (op == ">=") return a >= b;
    return std::nullopt;
  }

  Value arithmetic(const Node& node, std::int64_t a, std::int64_t b) const {
    std::int64_t result = 0;
    const char op = node.text[0];
    if (op == '/' || op == '%') {
      if (b == 0 || b == -1) fail(node, fmt::format("division by {}", b));
      const std::int64_t rest = (a % b + b) % b;  // Python rounds down
      return op == '%' ? rest : (a - rest) / b;
    }
    const bool overflow = op == '+'   ? __builtin_add_overflow(a, b, &result)
                          : op == '-' ? __builtin_sub_overflow(a, b, &result)
                                      : __builtin_mul_overflow(a, b, &result);
    if (overflow) fail(node, "a number too large");
    return result;
  }

  bool equal(const Value& a, const Value& b) {
    if (const auto* x = a.as<std::string>(), *y = b.as<std::string>(); x && y) return *x == *y;
    if (const auto* x = a.as<std::int64_t>(), *y = b.as<std::int64_t>(); x && y) return *x == *y;
    if (const auto* x = a.as<bool>(), *y = b.as<bool>(); x && y) return *x == *y;
    if (a.list() && b.list())
      return std::equal(a.list()->begin(), a.list()->end(), b.list()->begin(), b.list()->end(),
                        [&](const Value& x, const Value& y) { return equal(x, y); });
    if (a.map() && b.map())
      return std::equal(a.map()->begin(), a.map()->end(), b.map()->begin(), b.map()->end(),
                        [&](const auto& x, const auto& y) { return x.first == y.first && equal(x.second, y.second); });
    return (a.as<None>() && b.as<None>()) || (a.as<Undefined>() && b.as<Undefined>());
  }

  bool contains(const Node& node, const Value& whole, const Value& part) {
    const auto* text = part.as<std::string>();
    if (whole.as<Undefined>()) return false;
    if (const auto* in = whole.as<std::string>(); in && text) return in->find(*text) != std::string::npos;
    if (whole.map() && text) return whole.map()->contains(*text);
    if (whole.list())
      return std::any_of(whole.list()->begin(), whole.list()->end(), [&](const Value& v) { return equal(v, part); });
    fail(node, fmt::format("{} in {} has no meaning", part.kind(), whole.kind()));
  }

  static Value test(const std::string& name, const Value& of) {
    if (name == "none") return of.as<None>() != nullptr;
    if (name == "string") return of.as<std::string>() != nullptr;
    return (of.as<Undefined>() != nullptr) == (name == "undefined");
  }

  Value filter(const Node& node, const Value& of) {
    const std::string& name = node.text;
    if (name == "length") {
      if (of.list()) return static_cast<std::int64_t>(of.list()->size());
      if (of.map()) return static_cast<std::int64_t>(of.map()->size());
      if (const auto* text = of.as<std::string>())  // characters; neither their tails nor guard bytes count
        return std::int64_t{
            std::count_if(text->begin(), text->end(), [](char c) { return (c & 0xc0) != 0x80 && c != '\xff'; })};
      if (of.as<Undefined>()) return std::int64_t{0};
      fail(node, fmt::format("{} has no length", of.kind()));
    }
    std::string text = text_of(of, node);
    if (name == "trim") return trim(text);
    for (char& c : text) {
      if (c & 0x80) fail(node, fmt::format("the filter {} is supported for ASCII only", name));
      const bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
      if (name == "upper" ? lower : upper) c ^= 0x20;
    }
    return text;
  }

  std::string text_of(const Value& value, const Node& node) const {
    if (const auto* text = value.as<std::string>()) return *text;
    if (const auto* integer = value.as<std::int64_t>()) return std::to_string(*integer);
    if (const auto* boolean = value.as<bool>()) return *boolean ? "True" : "False";
    if (value.as<None>()) return "None";
    if (value.as<Undefined>()) return "";
    fail(node, fmt::format("{} as text is not supported in chat templates", value.kind()));
  }

  const std::string& name_;
  std::vector<Map> scopes_;
  std::string out_;
  std::int64_t steps_ = 0;
};

}  // namespace

Value::Value(List list) : held_(std::make_shared<const List>(std::move(list))) {}
Value::Value(Map map) : held_(std::make_shared<const Map>(std::move(map))) {}

const List* Value::list() const {
  const auto* held = as<std::shared_ptr<const List>>();
  return held ? held->get() : nullptr;
}

const Map* Value::map() const {
  const auto* held = as<std::shared_ptr<const Map>>();
  return held ? held->get() : nullptr;
}

bool Value::truth() const {
  if (const auto* boolean = as<bool>()) return *boolean;
  if (const auto* integer = as<std::int64_t>()) return *integer != 0;
  if (const auto* text = as<std::string>()) return !text->empty();
  if (list()) return !list()->empty();
  return map() && !map()->empty();
}

const char* Value::kind() const {
  constexpr const char* kKinds[] = {
      "something undefined", "none", "a boolean", "a number", "a string", "a list", "a map"};
  return kKinds[held_.index()];
}

Template::Template(std::string_view source, std::string name)
    : name_(std::move(name)), root_(parse(tokenize(source, name_), name_)) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

std::string Template::render(Map variables) const { return Interpreter(name_, std::move(variables)).run(*root_); }

}  // namespace longhaul::jinja
