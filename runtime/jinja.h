// The part of Jinja2 that chat templates use, as transformers runs it: its sandbox with immutable data, trim_blocks,
// lstrip_blocks, loop controls and its own functions.
#pragma once
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/base/error.h"
#include "runtime/jinja_value.h"

namespace longhaul::jinja {

struct Node;

class Template {
 public:
  /// Throws UserError{mistake}, "NAME:LINE: ...", for a construct that we do not know.
  Template(std::string_view source, std::string name, Exit mistake = Exit::bad_model);
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();
  /// `now`: the clock of strftime_now; the time of the call unless given. Throws UserError{usage} with the words of
  /// raise_exception, UserError{mistake} for a mistake of the template, or for one that takes too much time or memory.
  std::string render(const Map& variables, std::optional<std::tm> now = {}) const;

 private:
  std::string name_;
  Exit mistake_;
  std::unique_ptr<Node> root_;
};

}  // namespace longhaul::jinja
