#include "apps/config_file.h"

#include <charconv>
#include <cmath>
#include <sstream>
#include <vector>
#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include "kernels/base/error.h"
#include "kernels/base/file.h"

namespace longhaul {
namespace {

bool is_flag(const CLI::Option& option) { return option.get_expected_max() == 0; }
bool is_list(const CLI::Option& option) { return option.get_expected_max() > 1; }

/// `text` as the TOML value that value_text gives back unchanged.
void insert(toml::table& table, const std::string& key, const std::string& text) {
  auto whole_text = [&](auto& number) {
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc{} && end == text.data() + text.size() && fmt::format("{}", number) == text;
  };
  std::int64_t whole;
  double number;
  if (whole_text(whole)) table.insert(key, whole);
  else if (whole_text(number) && std::isfinite(number)) table.insert(key, number);
  else table.insert(key, text);
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
  toml::table table;
  try {
    table = toml::parse(read_file(file));
  } catch (const toml::parse_error& e) {
    throw UserError(Exit::usage, "--config {}:{}: not TOML: {}", file, e.source().begin.line, e.description());
  } catch (const UserError& e) {
    throw UserError(Exit::usage, "--config {}", e.what());
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
  toml::table table;
  for (const CLI::Option* option : verb.get_options()) {
    if (!option->get_configurable() || option->get_lnames().empty()) continue;
    const std::string& key = option->get_lnames()[0];
    std::vector<std::string> values = option->results();
    if (values.empty() && !option->get_default_str().empty()) values = {option->get_default_str()};
    if (values.empty()) continue;
    if (is_list(*option)) {
      toml::array array;
      for (const std::string& value : values) array.push_back(value);
      table.insert(key, std::move(array));
    } else if (is_flag(*option)) {
      table.insert(key, values.back() == "true");
    } else {
      insert(table, key, values.back());
    }
  }
  std::ostringstream out;
  out << table << '\n';
  return out.str();
}

}  // namespace longhaul
