// The values of a template: Python's, as far as templates of chats use them. Containers never change once made.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace longhaul::jinja {

struct Undefined {};
struct None {};
struct Sequence;
struct Dict;
struct Object;
class Value;
using List = std::vector<Value>;
using Items = std::vector<std::pair<Value, Value>>;

/// A dict's contents by name, for the caller's convenience; the order counts.
using Map = std::vector<std::pair<std::string, Value>>;

class Value {
 public:
  Value() = default;  // undefined
  Value(None none) : held_(none) {}
  Value(bool boolean) : held_(boolean) {}
  Value(std::int64_t integer) : held_(integer) {}
  Value(double number) : held_(number) {}
  Value(std::string text) : held_(std::make_shared<const std::string>(std::move(text))) {}
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(Sequence sequence);
  Value(List list);
  Value(Dict dict);
  Value(const Map& map);
  Value(Object* object) : held_(object) {}  // owned by the rendering

  bool undefined() const { return std::holds_alternative<Undefined>(held_); }
  bool none() const { return std::holds_alternative<None>(held_); }
  // Null for another kind.
  const bool* boolean() const { return std::get_if<bool>(&held_); }
  const std::int64_t* integer() const { return std::get_if<std::int64_t>(&held_); }
  const double* real() const { return std::get_if<double>(&held_); }
  const std::string* text() const;
  const Sequence* sequence() const;
  const Dict* dict() const;
  Object* object() const;

  /// A whole number: booleans are 0 and 1, as in Python.
  std::optional<std::int64_t> whole() const;
  /// Any number.
  std::optional<double> number() const;
  bool truth() const;
  /// Python's name of the type.
  std::string type() const;
  /// How deep containers stand in this one, and how much there is to walk through: values, and bytes of text.
  struct Extent {
    int depth = 0;
    std::int64_t weight = 1, bytes = 0;
    /// In bytes, roughly.
    std::size_t size() const { return static_cast<std::size_t>(16 * weight + bytes); }
  };
  Extent extent() const;

 private:
  std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const std::string>,
               std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>, Object*>
      held_;
};

struct Sequence {
  enum Kind { list, tuple, range, keys, values, items, generator };
  Kind kind = list;
  List elements;
  Value::Extent extent{.depth = 1};
  std::int64_t range_begin = 0, range_end = 0, range_step = 1;  // for the text of a range
  mutable bool consumed = false;                                // a generator gives its elements once

  /// What Python's [] and slices work on.
  bool indexable() const { return kind <= range; }
};

struct Dict {
  Items items;
  Value::Extent extent{.depth = 1};
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  /// Puts a value in the place of one with this key, or at the end.
  void put(Value key, Value value);
  /// The same, where there is none with this key.
  void append(Value key, Value value);
};

/// What is not plain data: namespaces, loops, macros, functions.
struct Object {
  virtual ~Object() = default;
  virtual std::string type() const = 0;
};

/// Python's ==.
bool equal(const Value& a, const Value& b);
/// Python's < for what has an order; none for what has not.
std::optional<bool> less(const Value& a, const Value& b);

/// A list, tuple or other sequence of these elements.
Value make_sequence(Sequence::Kind kind, List elements);

/// Python's repr of a float.
std::string float_text(double number);
/// Python's repr of a string.
std::string quoted_text(std::string_view text);

}  // namespace longhaul::jinja
