// JSON as values of a template.
#pragma once
#include <string>
#include <string_view>

#include "kernels/base/error.h"
#include "runtime/jinja/value.h"

namespace longhaul::jinja {

/// An object's members in their order. Throws UserError{exit}, beginning with `where`, for what is no JSON object, or
/// for numbers too large.
Map read_context(std::string_view text, const std::string& where, Exit exit);
/// NAME=VALUE, where VALUE is JSON, or else a string.
std::pair<std::string, Value> read_variable(const std::string& text);

}  // namespace longhaul::jinja
