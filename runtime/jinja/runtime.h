// What runs a template: errors with their line, limits, and the operations that filters and methods share.
#pragma once
#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/jinja/syntax.h"
#include "runtime/jinja/template.h"
#include "runtime/jinja/value.h"

namespace longhaul::jinja {

/// A mistake of the template, as Python would raise it; the interpreter adds the line.
struct Mistake {
  std::string what;
};

class Runtime;

/// The arguments of a call, taken one by one.
class Arguments {
 public:
  List positional;
  std::vector<std::pair<std::string, Value>> named;

  /// The argument with this name; none when it was not given.
  std::optional<Value> take(std::string_view name);
  /// The same, or the argument at `index`.
  std::optional<Value> get(std::size_t index, std::string_view name);
  Value required(std::size_t index, std::string_view name);
  std::optional<std::int64_t> whole(std::size_t index, std::string_view name);
  bool flag(std::size_t index, std::string_view name, bool otherwise);
  std::optional<std::string> text(std::size_t index, std::string_view name);  // none for None too
  /// Throws for arguments that nobody took.
  void finish(std::string_view callee) const;

 private:
  std::size_t taken_ = 0;
};

/// A function as a value.
struct Function : Object {
  using Call = std::function<Value(Runtime&, Arguments&)>;
  Function(std::string name, Call call) : name(std::move(name)), call(std::move(call)) {}
  std::string type() const override { return "function"; }
  /// A member, `a.name`; none when there is none.
  virtual std::optional<Value> member(std::string_view) { return std::nullopt; }
  std::string name;
  Call call;
};

/// namespace(...): the one thing that a template can change.
struct Namespace : Object {
  std::string type() const override { return "Namespace"; }
  Dict members;
};

/// The limits that keep a hostile template from taking the machine: steps, memory, processor time, nesting.
class Runtime {
 public:
  Runtime(std::size_t input_bytes, std::optional<std::tm> now, const Limits& limits);

  /// Counts work; `bytes`: text that is walked through.
  void step(std::size_t bytes = 0);
  /// Counts memory that a value takes.
  void take(std::size_t bytes);
  Value text(std::string text);
  Value sequence(Sequence::Kind kind, List elements);
  Value dict(Dict dict);
  template <class T, class... Args>
  T* own(Args&&... args) {
    take(sizeof(T) + 64);
    auto made = std::make_unique<T>(std::forward<Args>(args)...);
    T* object = made.get();
    objects_.push_back(std::move(made));
    return object;
  }

  /// What Python's iteration gives. Throws Mistake.
  List elements(const Value& of);
  std::int64_t length(const Value& of);
  /// Python's str and repr.
  std::string str(const Value& of);
  std::string repr(const Value& of);
  bool same(const Value& a, const Value& b);
  bool before(const Value& a, const Value& b);
  bool contains(const Value& whole, const Value& part);
  Value binary(std::string_view op, const Value& a, const Value& b);
  Value attribute(const Value& of, const std::string& name);
  Value item(const Value& of, const Value& key);
  Value slice(const Value& of, const Value& first, const Value& last, const Value& stride);
  Value call(const Value& callee, Arguments& arguments);
  Value filter(const std::string& name, const Value& of, Arguments& arguments);
  bool test(const std::string& name, const Value& of, Arguments& arguments);

  std::tm now() const;
  /// One level of nesting more; throws Mistake.
  void enter();
  void leave() { --depth_; }

 private:
  std::int64_t steps_ = 0, taken_ = 0, most_steps_, most_bytes_, most_elements_;
  double last_second_;  // of this thread's processor time
  int depth_ = 0;
  std::optional<std::tm> now_;
  std::vector<std::unique_ptr<Object>> objects_;
};

[[noreturn]] void mistake(std::string what);
/// Throws Mistake for what Python takes as no key of a dict.
void check_hashable(const Value& key);

/// A method of a string, list, dict or number; none when Python has no such.
std::optional<Function::Call> method_of(const Value& of, std::string_view name);
/// The functions that templates find: range, namespace, raise_exception, ...; none for another name.
std::optional<Value> global_function(Runtime& runtime, std::string_view name);
/// Python's `format % arguments`, and format.format(...).
std::string percent_format(Runtime& runtime, const std::string& format, const Value& arguments);
std::string brace_format(Runtime& runtime, const std::string& format, Arguments& arguments);
/// Python's datetime.strftime in the C locale.
std::string format_time(const std::tm& time, std::string_view format);
/// tojson as transformers has it.
Value to_json(Runtime& runtime, const Value& of, Arguments& arguments);
bool is_filter(std::string_view name);
bool is_test(std::string_view name);

/// The error of raise_exception.
struct Raised {
  std::string what;
};

}  // namespace longhaul::jinja
