#include "offload/policy.h"

#include <filesystem>
#include <sstream>
#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "kernels/ops.h"
#include "offload/shipped_policies.h"  // generated from config/policies

namespace longhaul {
namespace {

template <class T>
void read(const toml::node& node, std::string_view key, T& out, const std::string& where, const char* kind) {
  auto value = node.value_exact<T>();
  if (!value) throw UserError(Exit::usage, "{}: '{}' must be {}", where, key, kind);
  out = *value;
}

void read_rows(const toml::node& node, std::string_view key, std::int64_t& out, const std::string& where) {
  read(node, key, out, where, "a number of rows");
  if (out <= 0 || out % kAttendBlock != 0 || out > (std::int64_t{1} << 32))
    throw UserError(Exit::usage, "{}: {} = {} must be a positive multiple of {}", where, key, out, kAttendBlock);
}

void read_resident(const toml::node& node, KvPolicy& policy, const std::string& where) {
  policy.resident.reset();
  if (auto text = node.value_exact<std::string>(); text && *text == "auto") return;
  auto share = node.value<double>();
  if (!share || !(*share >= 0 && *share <= 1))
    throw UserError(Exit::usage, "{}: 'resident' must be a share from 0.0 to 1.0, or \"auto\"", where);
  policy.resident = *share;
}

}  // namespace

KvPolicy parse_policy(std::string_view text, const std::string& where) {
  toml::table table;
  try {
    table = toml::parse(text);
  } catch (const toml::parse_error& e) {
    throw UserError(Exit::usage, "{}:{}: not TOML: {}", where, e.source().begin.line, e.description());
  }
  KvPolicy policy;
  policy.name = std::filesystem::path(where).stem().string();
  for (const auto& [key, node] : table) {
    if (key == "name") {
      read(node, "name", policy.name, where, "a text");
    } else if (key == "select") {
      std::string select;
      read(node, "select", select, where, "a text");
      if (select != "all") throw UserError(Exit::usage, "{}: select = \"{}\" is unknown; known: all", where, select);
    } else if (key == "resident") {
      read_resident(node, policy, where);
    } else if (key == "tile_rows") {
      read_rows(node, "tile_rows", policy.tile_rows, where);
    } else if (key == "recent_rows") {
      read_rows(node, "recent_rows", policy.recent_rows, where);
    } else {
      throw UserError(Exit::usage, "{}: unknown key '{}'; known: name, select, resident, tile_rows, recent_rows", where,
                      key.str());
    }
  }
  if (policy.resident == 1.0)
    for (const char* key : {"tile_rows", "recent_rows"})
      if (table.contains(key))
        throw UserError(Exit::usage,
                        "{}: resident = 1.0 keeps every row on the device, so '{}' has no meaning; remove it", where,
                        key);
  return policy;
}

std::string print_policy(const KvPolicy& policy) {
  toml::table table{{"name", policy.name}, {"select", "all"}};
  if (policy.resident) table.insert("resident", *policy.resident);
  else table.insert("resident", "auto");
  if (policy.resident != 1.0) {
    table.insert("tile_rows", policy.tile_rows);
    table.insert("recent_rows", policy.recent_rows);
  }
  std::ostringstream out;
  out << table << '\n';
  return out.str();
}

std::vector<std::string> shipped_policies() {
  std::vector<std::string> names;
  for (const auto& [name, text] : kShippedPolicies) names.emplace_back(name);
  return names;
}

KvPolicy load_policy(const std::string& name_or_file) {
  for (const auto& [name, text] : kShippedPolicies)
    if (name == name_or_file) return parse_policy(text, name_or_file);
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(name_or_file, ignored))
    throw UserError(Exit::usage, "policy '{}' is neither a file nor one of the shipped policies: {}", name_or_file,
                    fmt::join(shipped_policies(), ", "));
  return parse_policy(read_file(name_or_file), name_or_file);
}

}  // namespace longhaul
