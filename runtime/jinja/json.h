// JSON as values of a template.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/error.h"
#include "runtime/jinja/value.h"

namespace longhaul::jinja {

/// An object's members in their order. Throws UserError{exit}, beginning with `where`, for what is no JSON object, or
/// for numbers too large.
Map read_context(std::string_view text, const std::string& where, Exit exit);
/// Each NAME=VALUE, where VALUE is JSON, or else a string. Throws UserError{usage} naming --template-var.
Map read_variables(const std::vector<std::string>& texts);

}  // namespace longhaul::jinja
