// The variable `loop` of a template.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "runtime/jinja/runtime.h"

namespace longhaul::jinja {

struct Loop : Function {
  Loop();
  std::string type() const override { return "LoopContext"; }
  std::optional<Value> member(std::string_view name) override;
  List elements;
  std::int64_t at = 0;
  std::optional<List> last;
  Function cycle{"cycle", {}}, changed{"changed", {}};
};

}  // namespace longhaul::jinja
