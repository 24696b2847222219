// The two tables of filters.
#pragma once
#include <map>
#include <string_view>

#include "runtime/jinja/runtime.h"

namespace longhaul::jinja {

using Filter = Value (*)(Runtime&, const Value&, Arguments&);
using Filters = std::map<std::string_view, Filter>;

const Filters& scalar_filters();
const Filters& sequence_filters();

}  // namespace longhaul::jinja
