#include "offload/policy.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "offload/policy_fields.h"
#include "offload/shipped_policies.h"  // generated from config/policies

namespace longhaul {
namespace {

toml::table parse_toml(std::string_view text, const std::string& where) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& e) {
    throw UserError(Exit::usage, "{}:{}: not TOML: {}", where, e.source().begin.line, e.description());
  }
}

KvPolicy read_policy(const toml::table& table, const std::string& where) {
  KvPolicy policy;
  policy.name = std::filesystem::path(where).stem().string();
  const auto& fields = policy_fields();
  for (const auto& [key, node] : table) {
    auto field = std::ranges::find(fields, key.str(), &PolicyField::key);
    if (field == fields.end()) {
      std::vector<std::string_view> known;
      for (const PolicyField& f : fields) known.push_back(f.key);
      throw UserError(Exit::usage, "{}: unknown key '{}'; known: {}", where, key.str(), fmt::join(known, ", "));
    }
    field->read(node, policy, where);
  }
  for (const PolicyField& field : fields)
    if (const std::string reason = field.idle(policy); !reason.empty() && table.contains(field.key))
      throw UserError(Exit::usage, "{}: {}, so '{}' has no meaning; remove it", where, reason, field.key);
  if (policy.selects()) {
    if (table.contains("rows") && (table.contains("share") || table.contains("min_rows")))
      throw UserError(Exit::usage,
                      "{}: 'rows' is a fixed budget, 'share' and 'min_rows' a growing one; give one of them", where);
    const std::int64_t least = policy.rows > 0 ? policy.rows : policy.min_rows;
    const std::int64_t always = policy.sinks + (policy.select == Select::labels ? policy.window : 1);
    if (always > least)
      throw UserError(Exit::usage, "{}: {} = {} is less than the rows that are always attended ({})", where,
                      policy.rows > 0 ? "rows" : "min_rows", least, always);
    if (!policy.repair && policy.look_ahead != LookAhead::hidden)
      throw UserError(Exit::usage,
                      "{}: repair = false attends what was predicted, and look_ahead = \"{}\" predicts nothing{}",
                      where, policy.look_ahead == LookAhead::none ? "none" : "auto",
                      policy.look_ahead == LookAhead::none ? "" : " where that is faster");
  }
  return policy;
}

}  // namespace

std::int64_t KvPolicy::budget(std::int64_t n) const {
  if (rows > 0) return std::min(rows, n);
  return std::min(n, std::max(min_rows, static_cast<std::int64_t>(std::floor(share * static_cast<double>(n)))));
}

std::int64_t KvPolicy::dims(std::int64_t head_dim) const {
  if (labels == Labels::exact) return head_dim;
  const double dims = label_dims < 1 ? label_dims * static_cast<double>(head_dim) : label_dims;
  return std::clamp<std::int64_t>(std::llround(dims), 1, head_dim);
}

KvPolicy parse_policy(std::string_view text, const std::string& where) {
  return read_policy(parse_toml(text, where), where);
}

std::string print_policy(const KvPolicy& policy) {
  toml::table table;
  for (const PolicyField& field : policy_fields())
    if (field.idle(policy).empty()) field.print(policy, table);
  if (policy.selects()) {  // one of the two kinds of budget
    if (policy.rows > 0) table.erase("share"), table.erase("min_rows");
    else table.erase("rows");
  }
  std::ostringstream out;
  out << table << '\n';
  return out.str();
}

KvPolicy answering(KvPolicy policy) {
  const KvPolicy plain;
  policy.name = plain.name;
  if (policy.repair) policy.look_ahead = plain.look_ahead, policy.eager_layers = plain.eager_layers;
  policy.cache = plain.cache;
  policy.resident = plain.resident;
  policy.tile_rows = KvPolicy::kTileRows;  // as text, too, what jobs of earlier versions have
  policy.recent_rows = plain.recent_rows;
  return policy;
}

std::vector<std::string> shipped_policies() {
  std::vector<std::string> names;
  for (const auto& [name, text] : kShippedPolicies) names.emplace_back(name);
  return names;
}

KvPolicy load_policy(const std::string& name_or_file, const std::vector<std::string>& sets) {
  auto shipped = std::ranges::find(kShippedPolicies, name_or_file, [](const auto& p) { return p.first; });
  std::error_code ignored;
  if (shipped == kShippedPolicies.end() && !std::filesystem::is_regular_file(name_or_file, ignored))
    throw UserError(Exit::usage, "policy '{}' is neither a file nor one of the shipped policies: {}", name_or_file,
                    fmt::join(shipped_policies(), ", "));
  toml::table table = parse_toml(
      shipped != kShippedPolicies.end() ? std::string(shipped->second) : read_file(name_or_file), name_or_file);
  for (const std::string& set : sets) {
    const auto equals = set.find('=');
    if (equals == std::string::npos || equals == 0)
      throw UserError(Exit::usage, "--set policy.{}: expected policy.KEY=VALUE", set);
    const std::string key = set.substr(0, equals), where = "--set policy." + set;
    toml::table value;
    try {
      value = toml::parse("value = " + set.substr(equals + 1));
    } catch (const toml::parse_error&) {
      value = toml::table{{"value", set.substr(equals + 1)}};  // a text without quotes, as a shell gives it
    }
    if (value.size() != 1) throw UserError(Exit::usage, "{}: expected one value", where);
    if (key == "rows") table.erase("share"), table.erase("min_rows");
    if (key == "share") table.erase("rows");
    table.insert_or_assign(key, *value.get("value"));
    // What the new value leaves without a meaning goes; what the user has set and means nothing is an error below.
    KvPolicy probe;
    for (const PolicyField& field : policy_fields())
      if (const toml::node* node = table.get(field.key)) field.read(*node, probe, where);
    for (const PolicyField& field : policy_fields())
      if (!field.idle(probe).empty() &&
          std::ranges::none_of(sets, [&](const std::string& s) { return s.starts_with(std::string(field.key) + "="); }))
        table.erase(field.key);
  }
  return read_policy(table, name_or_file);
}

}  // namespace longhaul
