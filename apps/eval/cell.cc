#include "apps/eval/cell.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "kernels/base/error.h"
#include "runtime/labels/label_bases.h"

namespace longhaul::eval {
namespace {

/// "1/16", "0.0625", "16": a positive number.
double parse_ratio(const char* flag, const std::string& text, const char* kind) {
  auto number = [&](std::string_view part) {
    double value = 0;
    auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc{} || end != part.data() + part.size() || !(value > 0) || value > 1e9)
      throw UserError(Exit::usage, "{} '{}': expected {}", flag, text, kind);
    return value;
  };
  const std::size_t slash = text.find('/');
  if (slash == std::string::npos) return number(text);
  const double ratio =
      number(std::string_view(text).substr(0, slash)) / number(std::string_view(text).substr(slash + 1));
  if (ratio > 1) throw UserError(Exit::usage, "{} '{}': expected {}", flag, text, kind);
  return ratio;
}

/// A number as a TOML float.
std::string toml_float(double value) {
  std::string text = fmt::format("{:.17g}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string share_set(const std::string& share) {
  const char* kind = "a share of the rows above 0 and at most 1, as 1/16, or a number of rows from 2";
  const double value = parse_ratio("--shares", share, kind);
  if (value <= 1) return "share=" + toml_float(value);
  const auto rows = static_cast<std::int64_t>(value);
  if (static_cast<double>(rows) != value) throw UserError(Exit::usage, "--shares '{}': expected {}", share, kind);
  return fmt::format("rows={}", rows);
}

std::vector<std::string> or_default(const std::vector<std::string>& values) {
  return values.empty() ? std::vector<std::string>{""} : values;
}

std::string short_number(double value) {
  if (value > 0 && value < 1)
    if (const double inverse = 1 / value; std::abs(inverse - std::round(inverse)) < 1e-9)
      return fmt::format("1/{:.0f}", inverse);
  return fmt::format("{:g}", value);
}

Variant make_variant(const std::string& policy, const std::vector<std::string>& sets) {
  Variant variant{.policy = load_policy(policy, sets)};
  KvPolicy& p = variant.policy;
  p.resident = 1.0;
  p.cache = 0.0;
  const bool by_labels = p.select == Select::labels && p.labels != Labels::exact;
  variant.name = p.name;
  if (p.kv_dtype != RowType::act) variant.name += fmt::format(", {} rows", name_of(p.kv_dtype));
  variant.share = !p.selects() ? "-" : p.rows > 0 ? fmt::format("{} rows", p.rows) : short_number(p.share);
  variant.label_dims = by_labels ? short_number(p.label_dims) : "-";
  variant.labels = by_labels ? name_of(p.labels) : p.select == Select::labels ? "exact" : "-";
  return variant;
}

}  // namespace

std::vector<Variant> make_variants(const Grid& grid) {
  std::vector<Variant> variants{make_variant("dense", {})};
  auto add = [&](const std::string& policy, const std::vector<std::string>& sets) {
    Variant variant = make_variant(policy, sets);
    const bool known = std::ranges::any_of(variants, [&](const Variant& v) {
      // Policies without selection differ in the type of rows alone: where they live changes no token.
      const bool all = !v.policy.selects() && !variant.policy.selects();
      return v.policy == variant.policy || (all && v.policy.kv_dtype == variant.policy.kv_dtype);
    });
    if (!known) variants.push_back(std::move(variant));
  };
  for (const std::string& policy : grid.policies) {
    const KvPolicy plain = load_policy(policy);
    const bool selects = plain.selects();
    const bool by_labels = plain.select == Select::labels && plain.labels != Labels::exact;
    const auto shares_axis = or_default(selects ? grid.shares : std::vector<std::string>{});
    const auto dims_axis = or_default(by_labels ? grid.label_dims : std::vector<std::string>{});
    const auto labels_axis = or_default(by_labels ? grid.labels : std::vector<std::string>{});
    for (const std::string& share : shares_axis)
      for (const std::string& dims : dims_axis)
        for (const std::string& labels : labels_axis)
          for (const std::string& kv_dtype : or_default(grid.kv_dtypes)) {
            std::vector<std::string> sets = selects ? grid.sets : std::vector<std::string>{};
            if (!share.empty()) sets.push_back(share_set(share));
            if (!dims.empty())
              sets.push_back("label_dims=" + toml_float(parse_ratio("--label-dims", dims,
                                                                    "a number of dimensions or a share, as 1/16")));
            if (!labels.empty()) sets.push_back(fmt::format("labels=\"{}\"", labels));
            if (!kv_dtype.empty()) sets.push_back(fmt::format("kv_dtype=\"{}\"", kv_dtype));
            add(policy, sets);
          }
  }
  return variants;
}

double attended_share(const KvPolicy& policy, std::int64_t layers, std::int64_t rows) {
  if (!policy.selects()) return 1;
  std::int64_t dense = 0;
  for (std::int64_t layer : policy.dense_layers) dense += layer < layers;
  const double selected = static_cast<double>(std::min(policy.budget(rows), rows)) / static_cast<double>(rows);
  return (static_cast<double>(dense) + static_cast<double>(layers - dense) * selected) / static_cast<double>(layers);
}

}  // namespace longhaul::eval
