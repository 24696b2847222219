// The part of Jinja2 that chat templates use, as transformers runs it: its sandbox with immutable data, trim_blocks,
// lstrip_blocks, loop controls and its own functions.
#pragma once
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/base/error.h"
#include "runtime/jinja/value.h"

namespace longhaul::jinja {

struct Node;

/// What keeps a hostile template from taking the machine. For what the template is given, more is allowed: 64 times it.
struct Limits {
  std::int64_t steps = 4 << 20;  // of 256 bytes of text, or one operation
  std::int64_t bytes = 64 << 20;
  std::int64_t elements = 4 << 20;  // of a list, with those of its lists
  double seconds = 1.5;             // of this thread's processor time
};

class Template {
 public:
  /// Throws UserError{mistake}, "NAME:LINE: ...", for a construct that we do not know.
  Template(std::string_view source, std::string name, Exit mistake = Exit::bad_model);
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();
  /// `now`: the clock of strftime_now; the time of the call unless given. Throws UserError{usage} with the words of
  /// raise_exception, UserError{mistake} for a mistake of the template, or for one that takes too much time or memory.
  std::string render(const Map& variables, std::optional<std::tm> now = {}, const Limits& limits = {}) const;

 private:
  std::string name_;
  Exit mistake_;
  std::unique_ptr<Node> root_;
};

}  // namespace longhaul::jinja
