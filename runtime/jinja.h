// The part of Jinja2 that chat templates of plain models use, as transformers runs it (trim_blocks, lstrip_blocks).
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace longhaul::jinja {

struct Undefined {};
struct None {};
class Value;
using List = std::vector<Value>;
using Map = std::map<std::string, Value, std::less<>>;

/// A value of a template; lists and maps are shared and never change.
class Value {
 public:
  Value() = default;  // undefined
  Value(None none) : held_(none) {}
  Value(bool boolean) : held_(boolean) {}
  Value(std::int64_t integer) : held_(integer) {}
  Value(std::string text) : held_(std::move(text)) {}
  Value(const char* text) : held_(std::string(text)) {}
  Value(List list);
  Value(Map map);

  template <class T>
  const T* as() const {
    return std::get_if<T>(&held_);
  }
  const List* list() const;  // null for another kind
  const Map* map() const;
  bool truth() const;  // Python's
  /// "a string", "a list", ... for messages.
  const char* kind() const;

 private:
  std::variant<Undefined, None, bool, std::int64_t, std::string, std::shared_ptr<const List>,
               std::shared_ptr<const Map>>
      held_;
};

struct Node;

class Template {
 public:
  /// Throws UserError{bad_model}, "NAME:LINE: ...", for a construct that we do not know.
  Template(std::string_view source, std::string name);
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();
  /// Throws UserError{usage} with the words of raise_exception, UserError{bad_model} for a mistake of the template.
  std::string render(Map variables) const;

 private:
  std::string name_;
  std::unique_ptr<Node> root_;
};

}  // namespace longhaul::jinja
