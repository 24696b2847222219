#include "apps/config_file.h"

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>
#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include "kernels/base/error.h"

namespace longhaul {
namespace {

bool is_flag(const CLI::Option& option) { return option.get_expected_max() == 0; }
bool is_list(const CLI::Option& option) { return option.get_expected_max() > 1; }

/// Whether TOML reads `text` as a number that value_text gives back unchanged.
bool is_number(const std::string& text) {
  double number;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size() && std::isfinite(number) &&
         fmt::format("{}", number) == text && text.find('e') == std::string::npos;
}

std::string value_text(const toml::node& node, const std::string& where) {
  if (auto text = node.value_exact<std::string>()) return *text;
  if (auto flag = node.value_exact<bool>()) return *flag ? "true" : "false";
  if (auto whole = node.value_exact<std::int64_t>()) return fmt::format("{}", *whole);
  if (auto number = node.value_exact<double>()) return fmt::format("{}", *number);
  throw UserError(Exit::usage, "{} must be a text, a number, true or false", where);
}

}  // namespace

void apply_config(CLI::App& verb, const std::string& file) {
  std::ifstream in(file);
  std::ostringstream bytes;
  if (in) bytes << in.rdbuf();
  if (!in) throw UserError(Exit::usage, "--config {}: {}", file, std::strerror(errno));
  toml::table table;
  try {
    table = toml::parse(bytes.str());
  } catch (const toml::parse_error& e) {
    throw UserError(Exit::usage, "--config {}:{}: not TOML: {}", file, e.source().begin.line, e.description());
  }
  for (const auto& [key, node] : table) {
    std::string name(key.str()), where = fmt::format("--config {}: '{}'", file, name);
    CLI::Option* option = verb.get_option_no_throw("--" + name);
    if (option == nullptr || !option->get_configurable())
      throw UserError(Exit::usage, "{} is not a key of this verb; see longhaul {} --help", where, verb.get_name());
    if (option->count() > 0) continue;  // the command line overrides
    const toml::array* array = node.as_array();
    if (array && !is_list(*option)) throw UserError(Exit::usage, "{} takes one value", where);
    if (array)
      for (const toml::node& item : *array) option->add_result(value_text(item, where));
    else option->add_result(value_text(node, where));
    try {
      if (option->count() > 0) option->run_callback();
    } catch (const std::exception& e) {
      throw UserError(Exit::usage, "--config {}: {}", file, e.what());
    }
  }
}

std::string print_config(const CLI::App& verb) {
  std::ostringstream out;
  for (const CLI::Option* option : verb.get_options()) {
    if (!option->get_configurable() || option->get_lnames().empty() || option->get_lnames()[0] == "help") continue;
    std::vector<std::string> values = option->results();
    if (values.empty() && !option->get_default_str().empty()) values = {option->get_default_str()};
    if (values.empty()) continue;
    out << option->get_lnames()[0] << " = ";
    if (is_list(*option)) {
      toml::array array;
      for (const std::string& value : values) array.push_back(value);
      out << array;
    } else if (is_flag(*option) || is_number(values.back())) {
      out << values.back();
    } else {
      out << toml::value<std::string>(values.back());
    }
    out << '\n';
  }
  return out.str();
}

}  // namespace longhaul
