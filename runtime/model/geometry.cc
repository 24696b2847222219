#include "runtime/model/geometry.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "kernels/ops.h"
#include "runtime/model/read_rope.h"
#include "runtime/shipped_geometries.h"  // generated from config/geometries

namespace longhaul {
namespace {

constexpr double kHuge = 1e12;

/// The keys of one table; each is taken once, and what is left at the end is unknown.
class Keys {
 public:
  Keys(const toml::table& table, std::string where, std::string prefix)
      : table_(table), where_(std::move(where)), prefix_(std::move(prefix)) {}

  const toml::node* take(std::string_view key) {
    known_.emplace(key);
    return table_.get(key);
  }
  bool has(std::string_view key) {
    known_.emplace(key);
    return table_.contains(key);
  }
  void whole(std::string_view key, std::int64_t& to, std::int64_t least, std::int64_t most) {
    const toml::node* node = take(key);
    if (node == nullptr) throw UserError(Exit::usage, "{}: '{}{}' is absent", where_, prefix_, key);
    const auto value = node->value_exact<std::int64_t>();
    if (!value || *value < least || *value > most)
      refuse(key, fmt::format("must be a whole number from {} to {}", least, most));
    to = *value;
  }
  void number(std::string_view key, double& to, double least, double most) {
    const toml::node* node = take(key);
    if (node == nullptr) return;
    const auto value = node->value<double>();
    if (!value || !(*value >= least && *value <= most))
      refuse(key, fmt::format("must be a number from {} to {}", least, most));
    to = *value;
  }
  bool flag(std::string_view key) {
    const toml::node* node = take(key);
    if (node == nullptr) return false;
    const auto value = node->value_exact<bool>();
    if (!value) refuse(key, "must be true or false");
    return *value;
  }
  [[noreturn]] void refuse(std::string_view key, const std::string& why) const {
    throw UserError(Exit::usage, "{}: '{}{}' {}", where_, prefix_, key, why);
  }
  void finish() const {
    for (const auto& [key, node] : table_)
      if (!known_.contains(std::string(key.str())))
        throw UserError(Exit::usage, "{}: unknown key '{}{}'; known: {}", where_, prefix_, key.str(),
                        fmt::join(known_, ", "));
  }

 private:
  const toml::table& table_;
  std::string where_, prefix_;
  std::set<std::string> known_;
};

RopeConfig read_rope(const toml::node* node, const std::string& where) {
  RopeConfig rope;
  if (node == nullptr) return rope;
  const toml::table* table = node->as_table();
  if (table == nullptr) throw UserError(Exit::usage, "{}: 'rope' must be a table", where);
  Keys keys(*table, where, "rope.");
  constexpr std::array kTypes{RopeType::standard, RopeType::linear, RopeType::dynamic, RopeType::llama3};
  if (const toml::node* type = keys.take("type")) {
    const auto name = type->value_exact<std::string>();
    const auto known = name ? rope_type_of(*name) : std::nullopt;
    if (!known || std::ranges::find(kTypes, *known) == kTypes.end())
      keys.refuse("type", "must be \"default\", \"linear\", \"dynamic\" or \"llama3\"");
    rope.type = *known;
  }
  keys.number("theta", rope.theta, 1, kHuge);
  if (rope.type != RopeType::standard) keys.number("factor", rope.factor, 1, kHuge);
  if (rope.type == RopeType::llama3) {
    keys.number("low_freq_factor", rope.low_freq_factor, 1e-6, kHuge);
    keys.number("high_freq_factor", rope.high_freq_factor, 1e-6, kHuge);
    if (rope.high_freq_factor <= rope.low_freq_factor) keys.refuse("high_freq_factor", "must exceed low_freq_factor");
  }
  if (rope.type == RopeType::llama3 || rope.type == RopeType::dynamic)
    keys.whole("original_max_position", rope.original_max_position, 1, 1 << 30);
  keys.finish();
  return rope;
}

DualChunks read_dual_chunks(const toml::node* node, const std::string& where) {
  DualChunks dual;
  if (node == nullptr) return dual;
  const toml::table* table = node->as_table();
  if (table == nullptr) throw UserError(Exit::usage, "{}: 'dual_chunk' must be a table", where);
  Keys keys(*table, where, "dual_chunk.");
  std::int64_t local = 0;
  keys.whole("chunk_size", dual.reach, 1, 1 << 30);
  if (keys.has("local_size")) keys.whole("local_size", local, 0, dual.reach - 1);
  if (keys.has("original_max_position")) keys.whole("original_max_position", dual.trained, 1, 1 << 30);
  keys.finish();
  dual.rows = dual.reach - local;
  if (dual.rows % kChunkUnit != 0)
    keys.refuse("chunk_size", fmt::format("less local_size must be a multiple of {}", kChunkUnit));
  return dual;
}

toml::table parse_toml(std::string_view text, const std::string& where) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& e) {
    throw UserError(Exit::usage, "{}:{}: not TOML: {}", where, e.source().begin.line, e.description());
  }
}

}  // namespace

Geometry parse_geometry(std::string_view text, const std::string& where) {
  const toml::table table = parse_toml(text, where);
  const std::filesystem::path path(where);
  Geometry geometry{.name = (path.extension() == ".toml" ? path.stem() : path.filename()).string(), .config = {}};
  ModelConfig& c = geometry.config;
  Keys keys(table, "geometry '" + where + "'", "");
  c.model_type = "llama";
  keys.whole("hidden", c.hidden, 8, 1 << 20);
  keys.whole("layers", c.layers, 1, 4096);
  keys.whole("q_heads", c.q_heads, 1, 4096);
  keys.whole("kv_heads", c.kv_heads, 1, 4096);
  keys.whole("head_dim", c.head_dim, 8, 256);
  keys.whole("intermediate", c.intermediate, 8, 1 << 22);
  keys.whole("vocab", c.vocab, 2, 1 << 24);
  keys.whole("max_position", c.max_position, 1, 1 << 30);
  double eps = 1e-5;
  keys.number("rms_norm_eps", eps, 1e-12, 0.1);
  c.rms_norm_eps = static_cast<float>(eps);
  c.tied_embeddings = keys.flag("tied_embeddings");
  c.rope = read_rope(keys.take("rope"), "geometry '" + where + "'");
  c.dual_chunks = read_dual_chunks(keys.take("dual_chunk"), "geometry '" + where + "'");
  c.qkv_bias = keys.flag("qkv_bias");
  c.head_norm = keys.flag("head_norm");
  if (keys.has("sliding_window")) {
    keys.whole("sliding_window", c.window, 1, 1 << 30);
    c.windowed.assign(static_cast<std::size_t>(c.layers), true);
  }
  if (keys.has("experts")) {
    keys.whole("experts", c.experts, 1, 65535);
    keys.whole("experts_per_token", c.experts_per_token, 1, c.experts);
    c.normalised_routes = true;
    c.model_type = "mixtral";
  }
  const toml::node* weights = keys.take("weights");
  keys.finish();
  if (c.q_heads % c.kv_heads != 0) keys.refuse("q_heads", fmt::format("must be a multiple of kv_heads {}", c.kv_heads));
  if (c.dual_chunks.rows > 0 && (c.window > 0 || c.rope.type != RopeType::standard))
    keys.refuse("dual_chunk", "must be absent where there is a sliding window or a rope type other than \"default\"");
  if (c.head_dim % 8 != 0) keys.refuse("head_dim", "must be a multiple of 8 up to 256");
  if ((c.qkv_bias || c.experts > 0) && c.hidden % 8 != 0)
    keys.refuse("hidden", "must be a multiple of 8 where there are biases or experts");
  if (c.experts > 0 && c.intermediate % 8 != 0)
    keys.refuse("intermediate", "must be a multiple of 8 where there are experts");
  if (weights != nullptr) {
    // In the groups that most published checkpoints of these types have.
    constexpr std::array kFormats{PackedFormat{PackedType::int4, 128}, PackedFormat{PackedType::int8, 128},
                                  PackedFormat{PackedType::fp8, 128}};
    const auto name = weights->value_exact<std::string>();
    const auto format =
        std::ranges::find_if(kFormats, [&](PackedFormat f) { return name && name_of(f.type) == *name; });
    if (format == kFormats.end()) keys.refuse("weights", "must be \"int4\", \"int8\" or \"fp8\"");
    geometry.formats = uniform_formats(c, *format);
  }
  return geometry;
}

Geometry load_geometry(const std::string& name_or_file) {
  const auto shipped = std::ranges::find(kShippedGeometries, name_or_file, [](const auto& g) { return g.first; });
  if (shipped != kShippedGeometries.end()) return parse_geometry(shipped->second, name_or_file);
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(name_or_file, ignored))
    throw UserError(Exit::usage, "geometry '{}' is neither a file nor one of the shipped geometries: {}", name_or_file,
                    fmt::join(shipped_geometries(), ", "));
  return parse_geometry(read_file(name_or_file), name_or_file);
}

std::vector<std::string> shipped_geometries() {
  std::vector<std::string> names;
  for (const auto& [name, text] : kShippedGeometries) names.emplace_back(name);
  return names;
}

}  // namespace longhaul
