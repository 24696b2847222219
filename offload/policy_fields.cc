#include "offload/policy_fields.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "kernels/base/error.h"

namespace longhaul {
namespace {

template <class E>
using Names = std::vector<std::pair<std::string_view, E>>;

const Names<Select>& names(Select) {
  static const Names<Select> all{
      {"all", Select::all}, {"labels", Select::labels}, {"recent", Select::recent}, {"heavy", Select::heavy}};
  return all;
}
const Names<Labels>& names(Labels) {
  static const Names<Labels> all{{"document", Labels::document},
                                 {"fitted", Labels::fitted},
                                 {"q", Labels::q},
                                 {"k", Labels::k},
                                 {"qk", Labels::qk},
                                 {"abs", Labels::abs},
                                 {"rms", Labels::rms},
                                 {"pairs", Labels::pairs},
                                 {"exact", Labels::exact}};
  return all;
}
const Names<Combine>& names(Combine) {
  static const Names<Combine> all{{"mean", Combine::mean}, {"max", Combine::max}};
  return all;
}
const Names<Tail>& names(Tail) {
  static const Names<Tail> all{{"none", Tail::none}, {"mean", Tail::mean}};
  return all;
}
const Names<RowType>& names(RowType) {  // "bf16": as activations are
  static const Names<RowType> all{
      {"bf16", RowType::act}, {"int8", RowType::int8}, {"fp8", RowType::fp8}, {"int4", RowType::int4}};
  return all;
}
const Names<LookAhead>& names(LookAhead) {
  static const Names<LookAhead> all{
      {"none", LookAhead::none}, {"hidden", LookAhead::hidden}, {"auto", LookAhead::measured}};
  return all;
}

[[noreturn]] void refuse(std::string_view key, const std::string& where, const std::string& expected) {
  throw UserError(Exit::usage, "{}: '{}' must be {}", where, key, expected);
}

template <class E>
E read_name(const toml::node& node, std::string_view key, const std::string& where) {
  auto text = node.value_exact<std::string>();
  std::string known;
  for (const auto& [name, value] : names(E{})) {
    if (text && *text == name) return value;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  if (!text) refuse(key, where, "a text, one of " + known);
  throw UserError(Exit::usage, "{}: {} = \"{}\" is unknown; known: {}", where, key, *text, known);
}

template <class E>
std::string_view spelled(E value) {
  return std::ranges::find(names(E{}), value, [](const auto& pair) { return pair.second; })->first;
}

std::int64_t read_whole(const toml::node& node, std::string_view key, const std::string& where, std::int64_t least,
                        std::int64_t most) {
  auto value = node.value_exact<std::int64_t>();
  if (!value || *value < least || *value > most)
    refuse(key, where, fmt::format("a whole number from {} to {}", least, most));
  return *value;
}

/// `or_else`: what else may stand there.
std::int64_t read_block_rows(const toml::node& node, std::string_view key, const std::string& where,
                             const char* or_else = "") {
  auto rows = node.value_exact<std::int64_t>();
  if (!rows) refuse(key, where, fmt::format("a number of rows{}", or_else));
  if (*rows <= 0 || *rows % kAttendBlock != 0 || *rows > (std::int64_t{1} << 32))
    throw UserError(Exit::usage, "{}: {} = {} must be a positive multiple of {}{}", where, key, *rows, kAttendBlock,
                    or_else);
  return *rows;
}

/// 0.0625 or "1/16".
std::optional<double> number_or_fraction(const toml::node& node) {
  if (auto number = node.value<double>(); number && !node.is_string()) return number;
  auto text = node.value_exact<std::string>();
  std::int64_t over = 0, under = 0;
  if (!text) return {};
  const char *begin = text->data(), *end = begin + text->size();
  auto [slash, error] = std::from_chars(begin, end, over);
  if (error != std::errc{} || slash == end || *slash != '/') return {};
  auto [stop, error2] = std::from_chars(slash + 1, end, under);
  if (error2 != std::errc{} || stop != end || under <= 0) return {};
  return static_cast<double>(over) / static_cast<double>(under);
}

/// As "1/N" where it is one, else as a number.
void print_share(toml::table& table, std::string_view key, double share) {
  const double under = std::round(1 / share);
  if (share < 1 && 1 / under == share) table.insert(key, fmt::format("1/{:.0f}", under));
  else table.insert(key, share);
}

std::vector<std::int64_t> read_layers(const toml::node& node, std::string_view key, const std::string& where) {
  std::vector<std::int64_t> layers;
  const toml::array* array = node.as_array();
  if (array == nullptr) refuse(key, where, "a list of layers, for example [0, 1]");
  for (const toml::node& item : *array) layers.push_back(read_whole(item, key, where, 0, 1 << 16));
  if (!std::ranges::is_sorted(layers) || std::ranges::adjacent_find(layers) != layers.end())
    refuse(key, where, "an ascending list of layers, none of them twice");
  return layers;
}

toml::array array_of(const std::vector<std::int64_t>& values) {
  toml::array array;
  for (std::int64_t v : values) array.push_back(v);
  return array;
}

// Why a field means nothing.
std::string always(const KvPolicy&) { return {}; }
std::string selecting(const KvPolicy& p) { return p.selects() ? std::string() : "select = \"all\" attends every row"; }
std::string by_labels(const KvPolicy& p) {
  if (!p.selects()) return selecting(p);
  return p.select == Select::labels ? std::string() : fmt::format("select = \"{}\" reads no labels", spelled(p.select));
}
std::string rounded_labels(const KvPolicy& p) {
  if (p.select == Select::labels && p.labels == Labels::exact) return "labels = \"exact\" are all channels, unrounded";
  return by_labels(p);
}
std::string moving(const KvPolicy& p) {
  return p.resident == 1.0 ? "resident = 1.0 keeps every row on the device" : std::string();
}
std::string selecting_and_moving(const KvPolicy& p) { return p.selects() ? moving(p) : selecting(p); }
/// Without repair the prediction is what is attended, so it matters wherever rows are.
std::string looking_ahead(const KvPolicy& p) {
  return p.select == Select::labels && p.repair ? moving(p) : by_labels(p);
}
std::string predicted(const KvPolicy& p) {
  if (std::string reason = looking_ahead(p); !reason.empty()) return reason;
  return p.look_ahead == LookAhead::none ? "look_ahead = \"none\" predicts nothing" : std::string();
}

}  // namespace

std::string_view name_of(Labels labels) { return spelled(labels); }
std::string_view name_of(RowType type) { return spelled(type); }

const std::vector<PolicyField>& policy_fields() {
  using N = const toml::node&;
  using P = KvPolicy&;
  using C = const KvPolicy&;
  using W = const std::string&;
  using T = toml::table&;
  static const std::vector<PolicyField> fields{
      {"name",
       [](N n, P p, W w) {
         auto text = n.value_exact<std::string>();
         if (!text) refuse("name", w, "a text");
         p.name = *text;
       },
       [](C p, T t) { t.insert("name", p.name); }, always},
      {"select", [](N n, P p, W w) { p.select = read_name<Select>(n, "select", w); },
       [](C p, T t) { t.insert("select", spelled(p.select)); }, always},
      {"share",
       [](N n, P p, W w) {
         auto share = number_or_fraction(n);
         if (!share || !(*share > 0 && *share <= 1))
           refuse("share", w, "a share above 0, up to 1, or a text such as \"1/16\"");
         p.share = *share;
       },
       [](C p, T t) { print_share(t, "share", p.share); }, selecting},
      {"rows", [](N n, P p, W w) { p.rows = read_whole(n, "rows", w, 1, std::int64_t{1} << 32); },
       [](C p, T t) { t.insert("rows", p.rows); }, selecting},
      {"min_rows", [](N n, P p, W w) { p.min_rows = read_whole(n, "min_rows", w, 1, std::int64_t{1} << 32); },
       [](C p, T t) { t.insert("min_rows", p.min_rows); }, selecting},
      {"top_p",
       [](N n, P p, W w) {
         auto share = n.value<double>();
         if (!share || !(*share > 0 && *share <= 1)) refuse("top_p", w, "a share above 0, up to 1");
         p.top_p = *share;
       },
       [](C p, T t) { t.insert("top_p", p.top_p); }, by_labels},
      {"sinks", [](N n, P p, W w) { p.sinks = read_whole(n, "sinks", w, 0, 1 << 20); },
       [](C p, T t) { t.insert("sinks", p.sinks); }, selecting},
      {"window", [](N n, P p, W w) { p.window = read_whole(n, "window", w, 1, 1 << 20); },
       [](C p, T t) { t.insert("window", p.window); }, by_labels},
      {"combine", [](N n, P p, W w) { p.combine = read_name<Combine>(n, "combine", w); },
       [](C p, T t) { t.insert("combine", spelled(p.combine)); }, by_labels},
      {"labels", [](N n, P p, W w) { p.labels = read_name<Labels>(n, "labels", w); },
       [](C p, T t) { t.insert("labels", spelled(p.labels)); }, by_labels},
      {"label_dims",
       [](N n, P p, W w) {
         auto dims = number_or_fraction(n);
         if (!dims || !(*dims > 0 && *dims <= 256) || (*dims >= 1 && *dims != std::round(*dims)))
           refuse("label_dims", w, "a number of dimensions from 1 to 256, or a share of head_dim such as \"1/8\"");
         p.label_dims = *dims;
       },
       [](C p, T t) {
         if (p.label_dims < 1) print_share(t, "label_dims", p.label_dims);
         else t.insert("label_dims", static_cast<std::int64_t>(p.label_dims));
       },
       rounded_labels},
      {"label_bits",
       [](N n, P p, W w) {
         p.label_bits = read_whole(n, "label_bits", w, 4, 16);
         if (p.label_bits != 4 && p.label_bits != 8 && p.label_bits != 16) refuse("label_bits", w, "4, 8 or 16");
       },
       [](C p, T t) { t.insert("label_bits", p.label_bits); }, rounded_labels},
      {"tail", [](N n, P p, W w) { p.tail = read_name<Tail>(n, "tail", w); },
       [](C p, T t) { t.insert("tail", spelled(p.tail)); }, by_labels},
      {"repair",
       [](N n, P p, W w) {
         auto flag = n.value_exact<bool>();
         if (!flag) refuse("repair", w, "true or false");
         p.repair = *flag;
       },
       [](C p, T t) { t.insert("repair", p.repair); }, by_labels},
      {"dense_layers", [](N n, P p, W w) { p.dense_layers = read_layers(n, "dense_layers", w); },
       [](C p, T t) { t.insert("dense_layers", array_of(p.dense_layers)); }, selecting},
      {"eager_layers", [](N n, P p, W w) { p.eager_layers = read_layers(n, "eager_layers", w); },
       [](C p, T t) { t.insert("eager_layers", array_of(p.eager_layers)); }, predicted},
      {"kv_dtype", [](N n, P p, W w) { p.kv_dtype = read_name<RowType>(n, "kv_dtype", w); },
       [](C p, T t) { t.insert("kv_dtype", spelled(p.kv_dtype)); }, always},
      {"look_ahead", [](N n, P p, W w) { p.look_ahead = read_name<LookAhead>(n, "look_ahead", w); },
       [](C p, T t) { t.insert("look_ahead", spelled(p.look_ahead)); }, looking_ahead},
      {"cache",
       [](N n, P p, W w) {
         p.cache.reset();
         if (auto text = n.value_exact<std::string>(); text && *text == "auto") return;
         auto multiple = n.value<double>();
         if (!multiple || !(*multiple >= 0 && *multiple <= 64))
           refuse("cache", w, "slots as a multiple of the budget from 0.0 to 64.0, or \"auto\"");
         p.cache = *multiple;
       },
       [](C p, T t) {
         if (p.cache) t.insert("cache", *p.cache);
         else t.insert("cache", "auto");
       },
       selecting_and_moving},
      {"resident",
       [](N n, P p, W w) {
         p.resident.reset();
         if (auto text = n.value_exact<std::string>(); text && *text == "auto") return;
         auto share = n.value<double>();
         if (!share || !(*share >= 0 && *share <= 1)) refuse("resident", w, "a share from 0.0 to 1.0, or \"auto\"");
         p.resident = *share;
       },
       [](C p, T t) {
         if (p.resident) t.insert("resident", *p.resident);
         else t.insert("resident", "auto");
       },
       always},
      {"tile_rows",
       [](N n, P p, W w) {
         p.tile_rows.reset();
         if (auto text = n.value_exact<std::string>(); text && *text == "auto") return;
         p.tile_rows = read_block_rows(n, "tile_rows", w, ", or \"auto\"");
       },
       [](C p, T t) {
         if (p.tile_rows) t.insert("tile_rows", *p.tile_rows);
         else t.insert("tile_rows", "auto");
       },
       moving},
      {"recent_rows", [](N n, P p, W w) { p.recent_rows = read_block_rows(n, "recent_rows", w); },
       [](C p, T t) { t.insert("recent_rows", p.recent_rows); }, moving}};
  return fields;
}

}  // namespace longhaul
