#include "runtime/jinja/json.h"

#include <nlohmann/json.hpp>

#include "runtime/tokenizer/tokenizer.h"

namespace longhaul::jinja {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kDeepest = 60;

struct Refused {
  const char* what;
};

Value value_of(const Json& json) {
  switch (json.type()) {
    case Json::value_t::null:
      return None{};
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_unsigned:
      if (json.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) throw Refused{"a number too large"};
      return json.get<std::int64_t>();
    case Json::value_t::number_integer:
      return json.get<std::int64_t>();
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string:
      return json.get<std::string>();
    case Json::value_t::array: {
      List list;
      for (const Json& element : json) list.push_back(value_of(element));
      return list;
    }
    default: {
      Dict dict;
      for (const auto& [key, value] : json.items()) dict.append(key, value_of(value));
      return dict;
    }
  }
}

Json parse(std::string_view text) {
  const auto watch = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kDeepest) throw Refused{"nested too deeply"};
    return true;
  };
  return Json::parse(text, watch, false);
}

}  // namespace

Map read_context(std::string_view text, const std::string& where, Exit exit) {
  try {
    const Json json = parse(text);
    if (json.is_discarded()) throw Refused{"not valid JSON"};
    if (!json.is_object()) throw Refused{"must be a JSON object: the variables of the template"};
    Map variables;
    for (const auto& [name, value] : json.items()) variables.emplace_back(name, value_of(value));
    return variables;
  } catch (const Refused& refused) {
    throw UserError(exit, "{}: {}", where, refused.what);
  } catch (const Json::exception&) {
    throw UserError(exit, "{}: not valid JSON", where);
  }
}

Map read_variables(const std::vector<std::string>& texts) {
  Map variables;
  for (const std::string& text : texts) {
    if (const std::size_t bad = find_invalid_utf8(text); bad != std::string::npos)
      throw UserError(Exit::usage, "--template-var: not valid UTF-8 at byte {}", bad);
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
      throw UserError(Exit::usage, "--template-var {}: needs NAME=VALUE, such as enable_thinking=false", text);
    const std::string name = text.substr(0, equals), value = text.substr(equals + 1);
    try {
      const Json json = parse(value);
      variables.emplace_back(name, json.is_discarded() ? Value(value) : value_of(json));
    } catch (const Refused& refused) {
      throw UserError(Exit::usage, "--template-var {}: {}", name, refused.what);
    }
  }
  return variables;
}

}  // namespace longhaul::jinja
