#include "runtime/model/model_config.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/checkpoint/quantization_config.h"
#include "runtime/model/families.h"
#include "runtime/model/read_rope.h"

namespace longhaul {
namespace {

using nlohmann::json;

std::string names_of_families() {
  std::string names;
  for (const Family& family : families()) names += (names.empty() ? "" : ", ") + std::string(family.model_type);
  return names;
}

const Family& read_family(JsonObject& top, const std::string& file) {
  const std::string type = top.require("model_type", top.text("model_type"));
  const Family* family = find_family(type);
  if (family == nullptr)
    throw UserError(Exit::bad_model, "{}: model_type {} is not supported; supported: {}", file, quoted(type),
                    names_of_families());
  return *family;
}

bool read_flag(JsonObject& top, const Flag& flag) {
  return flag.key == nullptr ? flag.otherwise : top.boolean(flag.key).value_or(flag.otherwise);
}

void read_heads(JsonObject& top, const Family& family, ModelConfig& config, const std::string& file) {
  config.q_heads = top.require("num_attention_heads", top.whole("num_attention_heads", 1, 4096));
  config.kv_heads =
      top.whole("num_key_value_heads", 1, 4096)
          .value_or(family.kv_heads > 0 && !top.contains("num_key_value_heads") ? family.kv_heads : config.q_heads);
  if (config.q_heads % config.kv_heads != 0)
    throw UserError(Exit::bad_model, "{}: num_attention_heads {} is not a multiple of num_key_value_heads {}", file,
                    config.q_heads, config.kv_heads);
  auto head_dim = top.whole("head_dim", 1, 1 << 20);
  if (!head_dim && family.head_dim > 0 && !top.contains("head_dim")) head_dim = family.head_dim;
  if (!head_dim && config.hidden % config.q_heads != 0)
    throw UserError(Exit::bad_model,
                    "{}: hidden_size {} is not a multiple of num_attention_heads {}, and there is no head_dim", file,
                    config.hidden, config.q_heads);
  config.head_dim = head_dim.value_or(config.hidden / config.q_heads);
  if (config.head_dim % 8 != 0 || config.head_dim > 256)
    throw UserError(Exit::bad_model, "{}: head_dim is {}; expected a multiple of 8 up to 256", file, config.head_dim);
}

void read_experts(JsonObject& top, const ExpertNames& names, ModelConfig& config) {
  constexpr std::int64_t kMostExperts = 65535;  // a GPU's launches have no more rows of blocks
  constexpr std::int64_t kMost = 1 << 17;       // in all layers: each has three tensors to look for
  std::optional<std::int64_t> count;
  for (const char* key : names.count)
    if (const auto value = top.whole(key, 1, std::min(kMost / config.layers, kMostExperts))) {
      if (count && *count != *value) top.refuse(key, "as many as the other key of their number says");
      count = value;
    }
  config.experts = top.require(names.count[0], count);
  config.experts_per_token = top.require("num_experts_per_tok", top.whole("num_experts_per_tok", 1, config.experts));
  config.normalised_routes = read_flag(top, names.normalised);
}

/// Products with a bias, and those of experts, take rows of whole packs of 16 bytes.
void check_packs(const JsonObject& top, const char* intermediate, const ModelConfig& config) {
  const bool biased = config.qkv_bias || config.out_bias, experts = config.experts > 0;
  if ((biased || experts) && config.hidden % 8 != 0)
    top.refuse("hidden_size", fmt::format("a multiple of 8 in a model with {}", experts ? "experts" : "biases"));
  if (experts && config.intermediate % 8 != 0) top.refuse(intermediate, "a multiple of 8 in a model with experts");
}

/// Of the layers that RoPE does not turn.
void read_still(JsonObject& top, ModelConfig& config) {
  const std::int64_t interval = top.whole("no_rope_layer_interval", 1, 4096).value_or(4);
  config.still.resize(static_cast<std::size_t>(config.layers));
  const json* turned = top.take("no_rope_layers");  // 1 is a layer with RoPE, whatever the name says
  for (std::size_t l = 0; l < config.still.size(); ++l) config.still[l] = (l + 1) % interval == 0;
  if (turned == nullptr) return;
  const bool fits = turned->is_array() && std::ssize(*turned) == config.layers &&
                    std::ranges::all_of(*turned, [](const json& x) { return x == 0 || x == 1; });
  if (!fits) top.refuse("no_rope_layers", fmt::format("a list of {} numbers, each 0 or 1", config.layers));
  for (std::size_t l = 0; l < config.still.size(); ++l) config.still[l] = (*turned)[l] == 0;
}

void read_windows(JsonObject& top, const Family& family, ModelConfig& config) {
  if (family.windows == Windows::none) return;
  const bool switched = family.windows != Windows::all, by_layer = switched && family.windows != Windows::switched;
  auto window = top.whole("sliding_window", 1, 1 << 30);
  if (!window && family.window > 0 && !top.contains("sliding_window")) window = family.window;
  const bool used = switched ? top.boolean("use_sliding_window").value_or(false) : true;
  const std::int64_t first =
      family.windows == Windows::upper ? top.whole("max_window_layers", 0, 1 << 20).value_or(28) : 0;
  const json* types = by_layer ? top.take("layer_types") : nullptr;
  const bool there = used && window;
  std::vector<bool> windowed(static_cast<std::size_t>(config.layers));
  for (std::int64_t l = 0; l < config.layers; ++l)
    windowed[static_cast<std::size_t>(l)] =
        there && l >= first && (family.windows != Windows::without_rope || config.still[static_cast<std::size_t>(l)]);
  if (types != nullptr) {
    const bool fits =
        types->is_array() && std::ssize(*types) == config.layers && std::ranges::all_of(*types, [&](const json& x) {
          return x == "full_attention" || (there && x == "sliding_attention");
        });
    if (!fits)
      top.refuse("layer_types", fmt::format("a list of {} names, each \"full_attention\"{}", config.layers,
                                            there ? " or \"sliding_attention\"" : ", for there is no window"));
    for (std::size_t l = 0; l < windowed.size(); ++l) windowed[l] = (*types)[l] == "sliding_attention";
  }
  if (std::ranges::count(windowed, true) == 0) return;
  config.window = *window;
  config.windowed = std::move(windowed);
}

void read_dual_chunks(JsonObject& top, ModelConfig& config, const std::string& file) {
  constexpr const char* kKey = "dual_chunk_attention_config";
  const json* value = top.take(kKey);
  if (value == nullptr) return;
  JsonObject object(*value, file + ": " + kKey);
  DualChunks& dual = config.dual_chunks;
  dual.reach = object.require("chunk_size", object.whole("chunk_size", 1, 1 << 30));
  dual.rows = dual.reach - object.whole("local_size", 0, dual.reach - 1).value_or(0);
  dual.trained = object.whole("original_max_position_embeddings", 1, 1 << 30).value_or(0);
  object.finish();
  if (dual.rows % kChunkUnit != 0)
    throw UserError(Exit::bad_model, "{}: {}: chunk_size less local_size is {}; expected a multiple of {}", file, kKey,
                    dual.rows, kChunkUnit);
  if (config.window > 0)
    throw UserError(Exit::bad_model,
                    "{}: {} and a sliding window are not supported together; expected use_sliding_window false", file,
                    kKey);
  if (config.rope.type != RopeType::standard)
    throw UserError(Exit::bad_model, "{}: {} and a RoPE of another type than \"default\" are not supported together",
                    file, kKey);
}

/// What would change the arithmetic must have the one value that we compute.
void read_fixed(JsonObject& top, const Family& family) {
  // Weights of any of these become bf16.
  top.only("dtype", {"bfloat16", "float16", "float32"});
  top.only("torch_dtype", {"bfloat16", "float16", "float32"});
  top.only("hidden_act", {"silu"});
  top.only("partial_rotary_factor", {1});
  for (const FixedKey& fixed : family.fixed) top.only(fixed.key, {json::parse(fixed.value)});
  top.ignore({"_name_or_path", "architectures", "attention_dropout", "auto_map", "quantization_config",
              "initializer_range", "pad_token_id", "transformers_version", "use_cache", "unk_token_id",
              "output_attentions", "output_hidden_states"});
  for (const char* key : family.ignored) top.ignore({key});
}

}  // namespace

float DualChunks::temperature(std::int64_t prompt) const {
  if (trained == 0) return 1;
  return static_cast<float>(
      std::max(1.0, 0.1 * std::log(static_cast<double>(prompt) / static_cast<double>(trained)) + 1.0));
}

json read_model_config(const std::filesystem::path& dir) {
  const std::string file = (dir / "config.json").string();
  std::error_code unknown;
  if (!std::filesystem::exists(file, unknown))
    throw UserError(Exit::bad_model, "{}: no such file; is this a Hugging Face model folder? Download the file there",
                    file);
  return read_json_file(file);
}

ModelConfig load_model_config(const std::filesystem::path& dir) {
  return parse_model_config(read_model_config(dir), (dir / "config.json").string());
}

ModelConfig parse_model_config(const json& document, const std::string& file) {
  JsonObject top(document, file);
  const Family& family = read_family(top, file);  // first: keys of other families would be reported as unknown
  ModelConfig config{};
  config.model_type = family.model_type;
  config.hidden = top.require("hidden_size", top.whole("hidden_size", 1, 1 << 20));
  config.layers = top.require("num_hidden_layers", top.whole("num_hidden_layers", 1, 4096));
  const char* intermediate = family.experts ? family.experts->intermediate : "intermediate_size";
  config.intermediate = top.require(intermediate, top.whole(intermediate, 1, 1 << 22));
  config.vocab = top.require("vocab_size", top.whole("vocab_size", 1, 1 << 24));
  read_heads(top, family, config, file);
  config.rms_norm_eps = static_cast<float>(top.require("rms_norm_eps", top.number("rms_norm_eps", 1e-12, 0.1)));
  config.tied_embeddings = top.boolean("tie_word_embeddings").value_or(family.tied);
  config.qkv_bias = read_flag(top, family.qkv_bias);
  config.out_bias = read_flag(top, family.out_bias);
  config.head_norm = family.head_norm;
  if (family.experts) read_experts(top, *family.experts, config);
  if (family.skips_rope) read_still(top, config);
  read_windows(top, family, config);
  check_packs(top, intermediate, config);

  const auto trained = top.require("max_position_embeddings", top.whole("max_position_embeddings", 1, 1 << 30));
  config.rope = read_rope(top, family, config.head_dim, trained, file);
  const RopeConfig& rope = config.rope;
  config.max_position = trained;
  if (rope.type == RopeType::dynamic || rope.type == RopeType::yarn)
    config.max_position = static_cast<std::int64_t>(std::min(
        std::max<double>(static_cast<double>(trained), static_cast<double>(rope.original_max_position) * rope.factor),
        0x1p30));
  config.max_position = top.whole("max_sequence_length", 1, 1 << 30).value_or(config.max_position);
  if (family.dual_chunks) read_dual_chunks(top, config, file);

  // Absent ids are the reference's defaults; null means that there is none.
  const auto last_id = static_cast<std::int32_t>(config.vocab - 1);
  const auto bos = top.whole("bos_token_id", 0, last_id);
  if (bos) config.bos = static_cast<std::int32_t>(*bos);
  else if (!top.contains("bos_token_id")) config.bos = family.bos;
  config.eos = top.ids("eos_token_id", last_id);
  if (!top.contains("eos_token_id") && family.eos) config.eos = {*family.eos};
  read_fixed(top, family);
  parse_quantization(document, file);
  top.finish();
  return config;
}

GenerationDefaults load_generation_defaults(const std::filesystem::path& dir) {
  GenerationDefaults defaults;
  const auto path = dir / "generation_config.json";
  std::error_code failed;
  if (std::filesystem::status(path, failed).type() == std::filesystem::file_type::not_found) return defaults;
  const std::string file = path.string();
  const json document = read_json_file(path);
  JsonObject top(document, file);

  const bool sampled = top.boolean("do_sample").value_or(false);
  const auto temperature = top.number("temperature", 0, 100);
  const auto top_p = top.number("top_p", 0, 1);
  const auto top_k = top.whole("top_k", 0, 1 << 24);
  if (sampled) {  // without do_sample the reference is greedy whatever the three say; its own top_k default is 50
    defaults.temperature = static_cast<float>(temperature.value_or(1));
    defaults.top_p = static_cast<float>(top_p.value_or(1));
    defaults.top_k = static_cast<std::int32_t>(top_k.value_or(50));
  }
  // With or without do_sample, as the reference has it.
  defaults.repetition_penalty =
      static_cast<float>(top.number("repetition_penalty", kLeastPenalty, kMostPenalty).value_or(1));
  defaults.eos = top.ids("eos_token_id");
  defaults.max_new_tokens = top.whole("max_new_tokens", 1, 1 << 30);

  for (const char* key : {"num_beams", "num_beam_groups", "num_return_sequences", "typical_p",
                          "encoder_repetition_penalty", "guidance_scale", "length_penalty"})
    top.only(key, {1});
  for (const char* key : {"min_p", "top_h", "penalty_alpha", "no_repeat_ngram_size", "min_new_tokens", "min_length",
                          "epsilon_cutoff", "eta_cutoff", "diversity_penalty"})
    top.only(key, {0});
  for (const char* key :
       {"bad_words_ids", "force_words_ids", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens",
        "begin_suppress_tokens", "sequence_bias", "stop_strings", "watermarking_config"})
    top.only(key, {});
  for (const char* key : {"early_stopping", "renormalize_logits", "remove_invalid_values"}) top.only(key, {false});
  // max_length: the reference's limit on prompt and answer together; ours is the model's longest context.
  top.ignore({"_from_model_config", "bos_token_id", "pad_token_id", "max_length", "transformers_version", "use_cache",
              "output_attentions", "output_hidden_states", "output_scores", "output_logits",
              "return_dict_in_generate"});
  top.finish();
  return defaults;
}

}  // namespace longhaul
