#include "runtime/model/read_rope.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace longhaul {
namespace {

using nlohmann::json;
constexpr double kHuge = 1e12;  // a rope_theta or factor past this is a mistake; published ones stay below 1e9

constexpr std::array<std::pair<const char*, RopeType>, 6> kTypes{{{"default", RopeType::standard},
                                                                  {"linear", RopeType::linear},
                                                                  {"dynamic", RopeType::dynamic},
                                                                  {"llama3", RopeType::llama3},
                                                                  {"yarn", RopeType::yarn},
                                                                  {"longrope", RopeType::longrope}}};

RopeType read_type(JsonObject& rope, const Family& family, const std::string& file) {
  // `type` is the older name; where both stand they must agree.
  const auto now = rope.text("rope_type"), before = rope.text("type");
  if (now && before && *now != *before)
    throw UserError(Exit::bad_model, "{}: rope_type is {} but type is {}", file, quoted(*now), quoted(*before));
  const std::string name = now ? *now : before.value_or("default");
  if (std::ranges::find(family.longrope_names, name) != family.longrope_names.end()) return RopeType::longrope;
  const auto type = rope_type_of(name);
  if (!type)
    throw UserError(Exit::bad_model, "{}: rope type {} is not supported; expected {}", file, quoted(name),
                    rope_type_names());
  // A family whose longrope has other names has no other types (transformers refuses them, too).
  if (!family.longrope_names.empty() && *type != RopeType::standard && *type != RopeType::longrope)
    throw UserError(Exit::bad_model, "{}: rope type {} is not one of model_type {}", file, quoted(name),
                    family.model_type);
  return *type;
}

/// As transformers' modeling_rope_utils infers it where the file does not say it.
double yarn_attention_factor(double factor, std::optional<double> mscale, std::optional<double> mscale_all_dim) {
  auto scaled = [factor](double by) { return factor <= 1 ? 1.0 : 0.1 * by * std::log(factor) + 1.0; };
  const bool both = mscale.value_or(0) != 0 && mscale_all_dim.value_or(0) != 0;
  return both ? scaled(*mscale) / scaled(*mscale_all_dim) : scaled(1);
}

void read_llama3(JsonObject& object, RopeConfig& rope) {
  rope.low_freq_factor = object.require("low_freq_factor", object.number("low_freq_factor", 1e-6, kHuge));
  rope.high_freq_factor = object.require("high_freq_factor", object.number("high_freq_factor", 1e-6, kHuge));
  if (rope.high_freq_factor <= rope.low_freq_factor) object.refuse("high_freq_factor", "more than low_freq_factor");
}

void read_yarn(JsonObject& object, RopeConfig& rope) {
  auto beta = [&](const char* key, double otherwise) {
    const double value = object.number(key, 0, kHuge).value_or(0);
    return value == 0 ? otherwise : value;  // as the reference has it
  };
  rope.beta_fast = beta("beta_fast", rope.beta_fast);
  rope.beta_slow = beta("beta_slow", rope.beta_slow);
  if (rope.beta_fast < rope.beta_slow)
    object.refuse(object.contains("beta_slow") ? "beta_slow" : "beta_fast", "beta_fast >= beta_slow");
  rope.truncate = object.boolean("truncate").value_or(true);
  const auto mscale = object.number("mscale", 0, kHuge), mscale_all_dim = object.number("mscale_all_dim", 0, kHuge);
  rope.attention_factor = object.number("attention_factor", 1e-6, kHuge)
                              .value_or(yarn_attention_factor(rope.factor, mscale, mscale_all_dim));
}

void read_longrope(JsonObject& object, RopeConfig& rope, std::int64_t head_dim, std::int64_t longest) {
  auto factors = [&](const char* key) {
    const json* list = object.take(key);
    if (list == nullptr) object.missing(key);
    const bool fits =
        list->is_array() && std::ssize(*list) == head_dim / 2 && std::ranges::all_of(*list, [](const json& x) {
          return x.is_number() && x.get<double>() >= 1e-6 && x.get<double>() <= kHuge;
        });
    if (!fits) object.refuse(key, fmt::format("a list of {} numbers above 0, half of head_dim", head_dim / 2));
    return list->get<std::vector<double>>();
  };
  rope.short_factors = factors("short_factor");
  rope.long_factors = factors("long_factor");
  const auto trained = static_cast<double>(rope.original_max_position);
  rope.factor = object.number("factor", 1e-6, kHuge).value_or(static_cast<double>(longest) / trained);
  rope.attention_factor =
      object.number("attention_factor", 1e-6, kHuge)
          .value_or(rope.factor <= 1 ? 1.0 : std::sqrt(1 + std::log(rope.factor) / std::log(trained)));
}

}  // namespace

std::optional<RopeType> rope_type_of(std::string_view name) {
  const auto known = std::ranges::find(kTypes, name, [](const auto& type) { return std::string_view(type.first); });
  return known == kTypes.end() ? std::nullopt : std::optional(known->second);
}

std::string rope_type_names() {
  std::string names;
  for (const auto& [name, type] : kTypes)
    names += (names.empty() ? "" : type == kTypes.back().second ? " or " : ", ") + std::string(name);
  return names;
}

RopeConfig read_rope(JsonObject& top, const Family& family, std::int64_t head_dim, std::int64_t longest,
                     const std::string& file) {
  constexpr const char* kTrained = "original_max_position_embeddings";
  RopeConfig rope;
  const json* parameters = top.take("rope_parameters");
  const json* scaling = top.take("rope_scaling");
  const auto theta = top.number("rope_theta", 1, kHuge);
  rope.theta = theta.value_or(family.theta);
  if (parameters && scaling)
    throw UserError(Exit::bad_model, "{}: has both rope_parameters and rope_scaling; keep the one that is meant", file);
  const std::int64_t beside =  // 0: absent
      family.trained_length != nullptr ? top.whole(family.trained_length, 2, 1 << 30).value_or(0) : 0;
  if (!parameters && !scaling) return rope;

  JsonObject object(parameters ? *parameters : *scaling, file + (parameters ? ": rope_parameters" : ": rope_scaling"));
  rope.type = read_type(object, family, file);
  const auto inner = object.number("rope_theta", 1, kHuge);
  if (inner && theta && *inner != *theta)
    throw UserError(Exit::bad_model, "{}: rope_theta is {} but {}.rope_theta is {}", file, *theta,
                    parameters ? "rope_parameters" : "rope_scaling", *inner);
  rope.theta = inner.value_or(rope.theta);
  object.only("partial_rotary_factor", {1});
  if (rope.type == RopeType::standard) {
    object.finish();
    return rope;
  }
  if (rope.type == RopeType::dynamic) rope.original_max_position = longest;
  if (rope.type == RopeType::llama3 || rope.type == RopeType::yarn || rope.type == RopeType::longrope) {
    if (family.trained_length != nullptr && beside == 0) top.missing(family.trained_length);
    const std::int64_t trained = object.whole(kTrained, 2, 1 << 30).value_or(beside > 0 ? beside : longest);
    if (beside > 0 && beside != trained)
      throw UserError(Exit::bad_model, "{}: {} is {} beside RoPE's settings and {} in them", file, kTrained, beside,
                      trained);
    rope.original_max_position = trained;
  }
  if (rope.type == RopeType::longrope) {
    read_longrope(object, rope, head_dim, longest);
  } else {
    rope.factor = object.require("factor", object.number("factor", 1, kHuge));
    if (rope.type == RopeType::llama3) read_llama3(object, rope);
    if (rope.type == RopeType::yarn) read_yarn(object, rope);
  }
  object.finish();
  return rope;
}

}  // namespace longhaul
