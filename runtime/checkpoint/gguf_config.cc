#include "runtime/checkpoint/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "runtime/checkpoint/gguf_weights.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/checkpoint/quantised_readers.h"

namespace longhaul {
namespace {

using nlohmann::json;
constexpr std::int64_t kMost = 1 << 30;  // the config's own parser has the real limits

/// What Llama 3.1 and later divide a frequency by.
double llama3_divisor(double frequency, double factor, double original) {
  const double low = 1, high = 4;  // low_freq_factor and high_freq_factor, the same in all published models
  const double turns = original * frequency / (2 * std::numbers::pi);
  if (turns > high) return 1;
  if (turns < low) return factor;
  const double smooth = (turns - low) / (high - low);
  return 1 / ((1 - smooth) / factor + smooth);
}

/// The files of Llama 3.1 and later say how RoPE is scaled only by a tensor of divisors. The parameters that it was
/// made with are found again, or the file is refused.
json llama3_rope(const Gguf& file, const TensorInfo& info, double theta, std::int64_t head_dim) {
  const std::string where = file.where(kGgufRopeFactors, info);
  if (info.shape != std::vector<std::int64_t>{head_dim / 2})
    throw UserError(Exit::bad_model, "{}: has not one divisor for each of {} frequencies", where, head_dim / 2);
  const std::vector<float> divisors = read_floats(file, kGgufRopeFactors, info);
  const double factor = *std::ranges::max_element(divisors);
  for (std::int64_t original = 64; original <= 1 << 20; original *= 2) {
    bool same = factor >= 1;
    for (std::size_t i = 0; same && i < divisors.size(); ++i) {
      const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
      const double expected = llama3_divisor(frequency, factor, static_cast<double>(original));
      same = std::abs(divisors[i] - expected) <= 1e-4 * expected;
    }
    if (same)
      return {{"rope_type", "llama3"},
              {"factor", factor},
              {"low_freq_factor", 1.0},
              {"high_freq_factor", 4.0},
              {"original_max_position_embeddings", original},
              {"rope_theta", theta}};
  }
  throw UserError(Exit::bad_model, "{}: these divisors are not those of the llama3 rope type; others are not supported",
                  where);
}

/// An architecture as llama.cpp names it, and the model_type of the same models.
struct Architecture {
  std::string_view name;
  const char *model_type, *of_experts;  // of_experts: where there are some; null: there are never any
};
constexpr Architecture kArchitectures[] = {{"llama", "llama", "mixtral"}, {"qwen2", "qwen2", nullptr},
                                           {"qwen3", "qwen3", nullptr},   {"qwen3moe", nullptr, "qwen3_moe"},
                                           {"phi3", "phi3", nullptr},     {"smollm3", "smollm3", nullptr}};

class ConfigWriter {
 public:
  ConfigWriter(const Gguf& file, const Architecture& architecture)
      : file_(file),
        where_(file.path().string()),
        architecture_(architecture),
        arch_(architecture.name),
        keys_(file.metadata(), where_) {}

  json write() {
    json out{{"hidden_act", "silu"}};
    family(out);
    const std::int64_t hidden = take("embedding_length"), heads = take("attention.head_count");
    out["hidden_size"] = hidden;
    out["num_attention_heads"] = heads;
    out["num_key_value_heads"] = keys_.whole(key("attention.head_count_kv"), 1, kMost).value_or(heads);
    out["num_hidden_layers"] = take("block_count");
    out["max_position_embeddings"] = take("context_length");
    out["rms_norm_eps"] = keys_.require(key("attention.layer_norm_rms_epsilon"),
                                        keys_.number(key("attention.layer_norm_rms_epsilon"), 0, 1));
    const auto key_length = keys_.whole(key("attention.key_length"), 1, kMost);
    if (key_length) out["head_dim"] = *key_length;
    const std::int64_t head_dim = key_length.value_or(hidden / heads);
    keys_.only(key("attention.value_length"), {head_dim});
    keys_.only(key("rope.dimension_count"), {head_dim});  // RoPE of a part of a head is not supported
    rope(out, head_dim);
    vocabulary(out);
    tokens(out);
    refuse_the_rest();
    return out;
  }

 private:
  std::string key(const char* name) const { return arch_ + "." + name; }
  std::int64_t take(const char* name) { return keys_.require(key(name), keys_.whole(key(name), 1, kMost)); }

  /// What one family has and others have not.
  void family(json& out) {
    const std::int64_t experts = keys_.whole(key("expert_count"), 0, kMost).value_or(0);
    const auto used = keys_.whole(key("expert_used_count"), 0, kMost);
    const char* type = experts > 0 ? architecture_.of_experts : architecture_.model_type;
    if (type == nullptr)
      throw UserError(Exit::bad_model, "{}: \"{}\" is {}; expected {}", where_, key("expert_count"), experts,
                      experts > 0 ? "0" : "the number of experts");
    const std::string_view model_type = type;
    out["model_type"] = model_type;
    out["intermediate_size"] = take("feed_forward_length");
    if (experts > 0) {
      out["num_local_experts"] = experts;
      out["num_experts_per_tok"] = keys_.require(key("expert_used_count"), used);
      keys_.only(key("expert_gating_func"), {1});  // softmax
    }
    if (model_type == "qwen3_moe") {
      out["moe_intermediate_size"] = take("expert_feed_forward_length");
      out["norm_topk_prob"] = true;  // as llama.cpp has it, whatever the model
      keys_.only(key("expert_weights_norm"), {true});
    }
    if (model_type == "phi3")
      if (const auto window = keys_.whole(key("attention.sliding_window"), 0, kMost).value_or(0); window > 0)
        out["sliding_window"] = window;
    if (model_type == "smollm3") out["no_rope_layer_interval"] = 4;  // the same
  }

  void rope(json& out, std::int64_t head_dim) {
    const double theta = keys_.number(key("rope.freq_base"), 1, 1e12).value_or(10000);
    const std::string type = keys_.text(key("rope.scaling.type")).value_or("none");
    const auto factor = keys_.number(key("rope.scaling.factor"), 1, 1e12);
    const auto original = keys_.whole(key("rope.scaling.original_context_length"), 1, kMost);
    keys_.ignore({key("rope.scaling.finetuned").c_str()});
    keys_.only(key("rope.scale_linear"), {1});  // of the first files
    if (architecture_.name == "phi3" && original) out["original_max_position_embeddings"] = *original;
    const TensorInfo* divisors = file_.find(kGgufRopeFactors);
    const bool factors = file_.find(kGgufLongFactors) != nullptr || file_.find(kGgufShortFactors) != nullptr;
    if (divisors != nullptr && factors)
      throw UserError(Exit::bad_model, "{}: has both {} and {}", where_, kGgufRopeFactors, kGgufLongFactors);
    if ((divisors != nullptr && type != "none") || (factors && type != "none" && type != "longrope"))
      throw UserError(Exit::bad_model, "{}: has both rope.scaling.type {} and {}", where_, quoted(type),
                      factors ? kGgufLongFactors : kGgufRopeFactors);
    json& rope = out["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", theta}};
    if (factors)
      return longrope(rope, head_dim, keys_.require(key("rope.scaling.original_context_length"), original),
                      out["max_position_embeddings"].get<std::int64_t>());
    keys_.only(key("rope.scaling.attn_factor"), {1});
    if (divisors != nullptr) rope = llama3_rope(file_, *divisors, theta, head_dim);
    if (divisors != nullptr || type == "none") return;
    if (type != "linear" && type != "yarn")
      throw UserError(Exit::bad_model, "{}: rope.scaling.type {} is not supported; none, linear and yarn are", where_,
                      quoted(type));
    rope["rope_type"] = type;
    rope["factor"] = keys_.require(key("rope.scaling.factor"), factor);
    if (type == "yarn" && original) rope["original_max_position_embeddings"] = *original;
  }

  void longrope(json& rope, std::int64_t head_dim, std::int64_t original, std::int64_t longest) {
    rope["rope_type"] = "longrope";
    rope["original_max_position_embeddings"] = original;
    const auto factors = [&](const char* name) {
      return read_floats(file_, name, file_.expect(name, "F32", {head_dim / 2}));
    };
    rope["short_factor"] = factors(kGgufShortFactors);
    rope["long_factor"] = factors(kGgufLongFactors);
    const double scale = static_cast<double>(longest) / static_cast<double>(original);
    const double usual = scale <= 1 ? 1 : std::sqrt(1 + std::log(scale) / std::log(static_cast<double>(original)));
    // Rounded to float32 in the file; config.json has it only where it is another.
    const double given = keys_.number(key("rope.scaling.attn_factor"), 1e-6, 1e6).value_or(1);
    if (std::abs(given - usual) > 1e-6 * usual) rope["attention_factor"] = given;
  }

  /// The embedding table says how many tokens there are; without an output matrix it is that, too.
  void vocabulary(json& out) {
    const TensorInfo* table = file_.find(gguf_name("model.embed_tokens.weight"));
    if (table == nullptr) file_.missing(gguf_name("model.embed_tokens.weight"));
    out["vocab_size"] = table->shape.front();
    keys_.only(key("vocab_size"), {table->shape.front()});
    out["tie_word_embeddings"] = file_.find(gguf_name("lm_head.weight")) == nullptr;
  }

  void tokens(json& out) {
    const auto bos = keys_.whole("tokenizer.ggml.bos_token_id", 0, kMost);
    out["bos_token_id"] = bos ? json(*bos) : json();
    json ends = json::array();
    for (const char* name : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"})
      if (const auto id = keys_.whole(name, 0, kMost); id && std::ranges::find(ends, json(*id)) == ends.end())
        ends.push_back(static_cast<std::uint64_t>(*id));
    out["eos_token_id"] = ends.empty() ? json() : ends;
  }

  void refuse_the_rest() {
    if (const auto files = keys_.whole("split.count", 0, kMost); files && *files > 1)
      throw UserError(Exit::bad_model,
                      "{}: is one of {} files of a split model; join them with `llama-gguf-split --merge`", where_,
                      *files);
    for (const auto& [name, value] : file_.metadata().items())
      if (!name.starts_with(arch_ + ".")) keys_.ignore({name.c_str()});  // how it was made, and the tokenizer
    keys_.finish();
  }

  const Gguf& file_;
  std::string where_;
  const Architecture& architecture_;
  std::string arch_;
  JsonObject keys_;
};

}  // namespace

json gguf_config(const Gguf& file) {
  const std::string where = file.path().string();
  JsonObject keys(file.metadata(), where);
  const std::string arch = keys.require("general.architecture", keys.text("general.architecture"));
  const auto known = std::ranges::find(kArchitectures, arch, &Architecture::name);
  if (known == std::end(kArchitectures)) {
    std::string names;
    for (const Architecture& one : kArchitectures) names += (names.empty() ? "" : ", ") + std::string(one.name);
    throw UserError(Exit::bad_model, "{}: architecture {} is not supported; supported in GGUF: {}", where, quoted(arch),
                    names);
  }
  keys.only("general.type", {"model"});  // neither an adapter nor a projector
  return ConfigWriter(file, *known).write();
}

}  // namespace longhaul
