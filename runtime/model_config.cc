#include "runtime/model_config.h"

#include <algorithm>

#include "runtime/json_file.h"
#include "runtime/quantization_config.h"

namespace longhaul {
namespace {

using nlohmann::json;
constexpr double kHuge = 1e12;  // a rope_theta or factor past this is a mistake; published ones stay below 1e9

RopeType rope_type(JsonObject& rope, const std::string& file) {
  // `type` is the older name; where both stand they must agree.
  const auto now = rope.text("rope_type"), before = rope.text("type");
  if (now && before && *now != *before)
    throw UserError(Exit::bad_model, "{}: rope_type is {} but type is {}", file, quoted(*now), quoted(*before));
  const std::string name = now ? *now : before.value_or("default");
  if (name == "default") return RopeType::standard;
  if (name == "linear") return RopeType::linear;
  if (name == "dynamic") return RopeType::dynamic;
  if (name == "llama3") return RopeType::llama3;
  throw UserError(Exit::bad_model, "{}: rope type {} is not supported; expected default, linear, dynamic or llama3",
                  file, quoted(name));
}

/// rope_parameters (which holds rope_theta), or rope_scaling beside a rope_theta; neither is plain RoPE.
RopeConfig read_rope(JsonObject& top, std::int64_t max_position_embeddings, const std::string& file) {
  RopeConfig rope;
  const json* parameters = top.take("rope_parameters");
  const json* scaling = top.take("rope_scaling");
  const auto theta = top.number("rope_theta", 1, kHuge);
  rope.theta = theta.value_or(rope.theta);
  if (parameters && scaling)
    throw UserError(Exit::bad_model, "{}: has both rope_parameters and rope_scaling; keep the one that is meant", file);
  if (!parameters && !scaling) return rope;

  JsonObject object(parameters ? *parameters : *scaling, file + (parameters ? ": rope_parameters" : ": rope_scaling"));
  rope.type = rope_type(object, file);
  if (parameters) {
    const auto inner = object.number("rope_theta", 1, kHuge);
    if (inner && theta && *inner != *theta)
      throw UserError(Exit::bad_model, "{}: rope_theta is {} but rope_parameters.rope_theta is {}", file, *theta,
                      *inner);
    rope.theta = inner.value_or(rope.theta);
  }
  object.only("partial_rotary_factor", {1});
  if (rope.type != RopeType::standard) rope.factor = object.require("factor", object.number("factor", 1, kHuge));
  if (rope.type == RopeType::dynamic) rope.original_max_position = max_position_embeddings;
  if (rope.type == RopeType::llama3) {
    rope.low_freq_factor = object.require("low_freq_factor", object.number("low_freq_factor", 1e-6, kHuge));
    rope.high_freq_factor = object.require("high_freq_factor", object.number("high_freq_factor", 1e-6, kHuge));
    if (rope.high_freq_factor <= rope.low_freq_factor) object.refuse("high_freq_factor", "more than low_freq_factor");
    rope.original_max_position =
        object.whole("original_max_position_embeddings", 1, 1 << 30).value_or(max_position_embeddings);
  }
  object.finish();
  return rope;
}

std::string model_type(JsonObject& top, const std::string& file) {
  const std::string type = top.require("model_type", top.text("model_type"));
  if (type != "llama")
    throw UserError(Exit::bad_model, "{}: model_type {} is not supported; supported: llama", file, quoted(type));
  return type;
}

void read_heads(JsonObject& top, ModelConfig& config, const std::string& file) {
  config.q_heads = top.require("num_attention_heads", top.whole("num_attention_heads", 1, 4096));
  config.kv_heads = top.whole("num_key_value_heads", 1, 4096).value_or(config.q_heads);
  if (config.q_heads % config.kv_heads != 0)
    throw UserError(Exit::bad_model, "{}: num_attention_heads {} is not a multiple of num_key_value_heads {}", file,
                    config.q_heads, config.kv_heads);
  const auto head_dim = top.whole("head_dim", 1, 1 << 20);
  if (!head_dim && config.hidden % config.q_heads != 0)
    throw UserError(Exit::bad_model,
                    "{}: hidden_size {} is not a multiple of num_attention_heads {}, and there is no head_dim", file,
                    config.hidden, config.q_heads);
  config.head_dim = head_dim.value_or(config.hidden / config.q_heads);
  if (config.head_dim % 8 != 0 || config.head_dim > 256)
    throw UserError(Exit::bad_model, "{}: head_dim is {}; expected a multiple of 8 up to 256", file, config.head_dim);
}

}  // namespace

ModelConfig load_model_config(const std::filesystem::path& dir) {
  const std::string file = (dir / "config.json").string();
  std::error_code unknown;
  if (!std::filesystem::exists(file, unknown))
    throw UserError(Exit::bad_model, "{}: no such file; is this a Hugging Face model folder? Download the file there",
                    file);
  return parse_model_config(read_json_file(file), file);
}

ModelConfig parse_model_config(const json& document, const std::string& file) {
  JsonObject top(document, file);
  ModelConfig config{};
  config.model_type = model_type(top, file);  // first: keys of other families would be reported as unknown
  config.hidden = top.require("hidden_size", top.whole("hidden_size", 1, 1 << 20));
  config.layers = top.require("num_hidden_layers", top.whole("num_hidden_layers", 1, 4096));
  config.intermediate = top.require("intermediate_size", top.whole("intermediate_size", 1, 1 << 22));
  config.vocab = top.require("vocab_size", top.whole("vocab_size", 1, 1 << 24));
  read_heads(top, config, file);
  config.rms_norm_eps = static_cast<float>(top.require("rms_norm_eps", top.number("rms_norm_eps", 1e-12, 0.1)));
  config.tied_embeddings = top.boolean("tie_word_embeddings").value_or(false);

  const auto trained = top.require("max_position_embeddings", top.whole("max_position_embeddings", 1, 1 << 30));
  config.rope = read_rope(top, trained, file);
  config.max_position = trained;
  if (config.rope.type == RopeType::dynamic)
    config.max_position =
        static_cast<std::int64_t>(std::min(static_cast<double>(trained) * config.rope.factor, 0x1p30));
  config.max_position = top.whole("max_sequence_length", 1, 1 << 30).value_or(config.max_position);

  // Absent ids are the Llama defaults of the reference; null means that there is none.
  const auto last_id = static_cast<std::int32_t>(config.vocab - 1);
  const auto bos = top.whole("bos_token_id", 0, last_id);
  if (bos || !document.contains("bos_token_id")) config.bos = static_cast<std::int32_t>(bos.value_or(1));
  config.eos = top.ids("eos_token_id", last_id);
  if (!document.contains("eos_token_id")) config.eos = {2};

  // What would change the arithmetic must have the one value that we compute.
  // Weights of any of these become bf16.
  top.only("dtype", {"bfloat16", "float16", "float32"});
  top.only("torch_dtype", {"bfloat16", "float16", "float32"});
  top.only("hidden_act", {"silu"});
  top.only("attention_bias", {false});
  top.only("mlp_bias", {false});
  top.only("pretraining_tp", {1});
  top.only("partial_rotary_factor", {1});
  parse_quantization(document, file);
  // What has no part in inference.
  top.ignore({"_name_or_path", "architectures", "attention_dropout", "initializer_range", "pad_token_id",
              "transformers_version", "use_cache", "unk_token_id", "output_attentions", "output_hidden_states",
              "quantization_config"});
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
  defaults.eos = top.ids("eos_token_id");
  defaults.max_new_tokens = top.whole("max_new_tokens", 1, 1 << 30);

  for (const char* key : {"repetition_penalty", "num_beams", "num_beam_groups", "num_return_sequences", "typical_p",
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
