// config.json of every family: what is read, what is refused and in which words.
#include "tests/support/config_files.h"

namespace longhaul {

using nlohmann::json;
using namespace test;

namespace {

/// A family's test config with some keys changed; a null value removes the key.
json family_config(const std::string& name, const json& changes = json::object()) {
  json config = read_json_file(kFamilies / name / "config.json");
  for (const auto& [key, value] : changes.items()) {
    if (value.is_null()) config.erase(key);
    else config[key] = value;
  }
  return config;
}
std::string family_complaint(const std::string& name, const json& changes) {
  return complaint([&] { load(family_config(name, changes)); });
}

}  // namespace

TEST_CASE("What each family has", "[config]") {
  const auto moe = load_model_config(kFamilies / "qwen3_moe");
  CHECK((moe.experts == 6 && moe.experts_per_token == 2 && moe.intermediate == 96 && moe.normalised_routes));
  CHECK((moe.head_norm && !moe.qkv_bias && moe.head_dim == 64 && moe.window == 0));
  CHECK_FALSE(load(family_config("qwen3_moe", {{"norm_topk_prob", nullptr}})).normalised_routes);
  CHECK(load(family_config("qwen3_moe", {{"num_local_experts", nullptr}, {"num_experts", 8}})).experts == 8);
  const auto mixtral = load_model_config(kFamilies / "mixtral");
  CHECK((mixtral.experts == 4 && mixtral.intermediate == 192 && mixtral.normalised_routes && mixtral.window == 0));

  const auto qwen2 = load_model_config(kFamilies / "qwen2_yarn");
  CHECK((qwen2.qkv_bias && !qwen2.out_bias && !qwen2.head_norm && qwen2.windowed.empty()));
  CHECK((qwen2.rope.type == RopeType::yarn && qwen2.rope.original_max_position == 64 && qwen2.max_position == 512));
  CHECK(qwen2.rope.attention_factor == Approx(1.138629436));
  const auto bias = load(family_config("llama2_mha", {{"attention_bias", true}}));
  CHECK((bias.qkv_bias && bias.out_bias));
  const auto seed = load_model_config(kFamilies / "seed_oss");
  CHECK((seed.qkv_bias && !seed.out_bias));
  CHECK(load(family_config("seed_oss", {{"attention_bias", nullptr}})).qkv_bias);
  CHECK(load(family_config("qwen3", {{"head_dim", nullptr}})).head_dim == 128);
  CHECK(load(family_config("qwen3", {{"head_dim", nullptr}, {"eos_token_id", nullptr}})).eos.empty());

  const auto phi3 = load_model_config(kFamilies / "phi3_longrope");
  CHECK((phi3.rope.type == RopeType::longrope && phi3.rope.original_max_position == 64));
  CHECK((phi3.rope.long_factors.size() == 16 && phi3.rope.attention_factor == Approx(1.224744871)));
  json old = family_config("phi3_longrope", {{"rope_parameters", nullptr}, {"rope_theta", 10000}});
  old["rope_scaling"] = {
      {"type", "su"}, {"short_factor", phi3.rope.short_factors}, {"long_factor", phi3.rope.long_factors}};
  CHECK(load(old).rope.long_factors == phi3.rope.long_factors);

  const auto smollm3 = load_model_config(kFamilies / "smollm3");
  CHECK((smollm3.still == std::vector<bool>{false, false, false, true} && !smollm3.tied_embeddings));
  const auto defaults = load(family_config(
      "smollm3", {{"no_rope_layers", nullptr}, {"no_rope_layer_interval", 2}, {"tie_word_embeddings", nullptr}}));
  CHECK((defaults.still == std::vector<bool>{false, true, false, true} && defaults.tied_embeddings));
}

TEST_CASE("Sizes that are no whole packs", "[config]") {
  CHECK(family_complaint("mixtral", {{"hidden_size", 100}}).ends_with("a multiple of 8 in a model with experts"));
  CHECK(family_complaint("mixtral", {{"intermediate_size", 100}}).ends_with("a multiple of 8 in a model with experts"));
  CHECK(family_complaint("qwen3_moe", {{"moe_intermediate_size", 100}}).find("moe_intermediate_size") !=
        std::string::npos);
  CHECK(family_complaint("seed_oss", {{"hidden_size", 100}}).ends_with("a multiple of 8 in a model with biases"));
  CHECK(load(family_config("llama2_mha", {{"hidden_size", 100}, {"head_dim", 32}})).hidden == 100);
}

TEST_CASE("The keys that published configs have", "[config]") {
  // Of both schemas, as of the models' folders; lengths of lists cut to the layers.
  const char* const kPublished[] = {
      R"({"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
          "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02,
          "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2",
          "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
          "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
          "transformers_version": "4.43.1", "use_cache": true, "use_sliding_window": false, "vocab_size": 152064})",
      R"({"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
          "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128,
          "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 6144,
          "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe",
          "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
          "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": false,
          "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
          "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
          "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false, "vocab_size": 151936})",
      R"({"_name_or_path": "Phi-3-mini-4k-instruct", "architectures": ["Phi3ForCausalLM"], "attention_bias": false,
          "attention_dropout": 0.0, "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "bos_token_id": 1,
          "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
          "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "phi3",
          "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
          "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
          "rope_scaling": null, "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": false,
          "torch_dtype": "bfloat16", "transformers_version": "4.40.2", "use_cache": true, "vocab_size": 32064})",
      R"({"architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
          "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
          "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32,
          "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
          "output_router_logits": false, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
          "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
          "transformers_version": "4.36.0.dev0", "use_cache": true, "vocab_size": 32000})",
      R"({"architectures": ["SmolLM3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
          "bos_token_id": null, "eos_token_id": 128012, "hidden_act": "silu", "hidden_size": 2048,
          "initializer_range": 0.02, "intermediate_size": 11008, "layer_types": ["full_attention", "full_attention",
          "full_attention", "full_attention"], "max_position_embeddings": 65536, "max_window_layers": 28,
          "mlp_bias": false, "model_type": "smollm3", "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0],
          "num_attention_heads": 16, "num_hidden_layers": 4, "num_key_value_heads": 4, "pad_token_id": 128004,
          "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 5000000.0,
          "sliding_window": null, "torch_dtype": "bfloat16", "transformers_version": "4.54.0.dev0", "use_cache": false,
          "use_sliding_window": false, "vocab_size": 128256})",
      R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
          "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.04,
          "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
          "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
          "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false,
          "rope_scaling": null, "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
          "transformers_version": "4.42.3", "use_cache": true, "vocab_size": 49152})"};
  for (const char* text : kPublished) {
    const json config = json::parse(text);
    CHECK(complaint([&] { CHECK(load(config).model_type == config["model_type"]); }) == "no error");
  }
  CHECK(load(json::parse(kPublished[2])).window == 2047);
}

TEST_CASE("Which layers have a window", "[config]") {
  const std::vector<bool> upper{false, true, true}, all{true, true, true};
  const auto mistral = load_model_config(kFamilies / "mistral_window");
  CHECK((mistral.window == 48 && mistral.windowed == all));
  json config = family_config("mistral_window");
  config["sliding_window"] = nullptr;
  CHECK(load(config).windowed.empty());
  config.erase("sliding_window");  // the reference's default
  CHECK(load(config).window == 4096);

  const auto qwen2 = load_model_config(kFamilies / "qwen2_window");
  CHECK((qwen2.window == 48 && qwen2.windowed == upper));
  CHECK(load(family_config("qwen2_window", {{"max_window_layers", nullptr}})).windowed.empty());
  CHECK(load(family_config("qwen2_window", {{"use_sliding_window", false}})).windowed.empty());
  const json types{"sliding_attention", "full_attention", "sliding_attention"};
  CHECK(load(family_config("qwen2_window", {{"layer_types", types}})).windowed == std::vector<bool>{true, false, true});
  CHECK(load(family_config("qwen3_moe", {{"use_sliding_window", true}, {"sliding_window", 48}})).windowed == all);
  CHECK(load(family_config("smollm3", {{"use_sliding_window", true}, {"sliding_window", 9}, {"layer_types", nullptr}}))
            .windowed == std::vector<bool>{false, false, false, true});
}

TEST_CASE("Dual-chunk attention: chunks, and what it is not computed together with", "[config]") {
  auto with = [](const json& chunks) { return json{{"dual_chunk_attention_config", chunks}}; };
  const auto tiny = load_model_config(kFamilies / "qwen2_dual_chunk");
  CHECK((tiny.max_position == 2048 && tiny.dual_chunks.rows == 256 && tiny.dual_chunks.reach == 320));
  CHECK((tiny.dual_chunks.trained == 1024 && load_model_config(kFamilies / "qwen3").dual_chunks.rows == 0));
  const auto published = load(family_config(
      "qwen3", with({{"chunk_size", 262144}, {"local_size", 8192}, {"original_max_position_embeddings", 262144}})));
  CHECK((published.dual_chunks.rows == 253952 && published.max_position == 512));
  const auto least = load(family_config("qwen3", with({{"chunk_size", 4096}})));
  CHECK((least.dual_chunks.rows == 4096 && least.dual_chunks.trained == 0));
  CHECK(has(family_complaint("qwen3", with({{"local_size", 8}})), "the key \"chunk_size\" is missing"));
  CHECK(has(family_complaint("qwen3", with({{"chunk_size", 8}, {"local_size", 8}})), "\"local_size\" is 8"));
  CHECK(has(family_complaint("qwen3", with({{"chunk_size", 8}, {"sparse_attention_enabled", true}})),
            "dual_chunk_attention_config: the key \"sparse_attention_enabled\" is unknown"));
  CHECK(has(family_complaint("qwen3", with({{"chunk_size", 320}, {"local_size", 100}})),
            "dual_chunk_attention_config: chunk_size less local_size is 220; expected a multiple of 256"));
  CHECK(has(family_complaint("qwen2_window", with({{"chunk_size", 256}})),
            "dual_chunk_attention_config and a sliding window are not supported together"));
  CHECK(has(family_complaint("qwen2_yarn", with({{"chunk_size", 256}})),
            "dual_chunk_attention_config and a RoPE of another type than \"default\""));
}

TEST_CASE("Dual-chunk attention: a long prompt's temperature", "[config]") {
  const DualChunks dual{.rows = 256, .reach = 320, .trained = 320};
  CHECK(dual.temperature(1) == 1);
  CHECK(dual.temperature(320) == 1);
  CHECK(dual.temperature(640) == Approx(1.0693147));
  CHECK(DualChunks{.rows = 256, .reach = 320}.temperature(100'000) == 1);
}

TEST_CASE("What a family would do otherwise is refused by name", "[config]") {
  CHECK(has(family_complaint("qwen3_moe", {{"decoder_sparse_step", 2}}), "\"decoder_sparse_step\" is 2; expected 1"));
  CHECK(has(family_complaint("qwen3_moe", {{"mlp_only_layers", json::array({1})}}),
            "\"mlp_only_layers\" is [1]; expected []"));
  CHECK(has(family_complaint("qwen3_moe", {{"num_experts", 4}}), "\"num_local_experts\" is 6; expected as many as"));
  CHECK(has(family_complaint("mixtral", {{"num_local_experts", nullptr}}), "\"num_local_experts\" is missing"));
  CHECK(has(family_complaint("mixtral", {{"num_experts_per_tok", 5}}), "is 5; expected a whole number from 1 to 4"));
  CHECK(
      has(family_complaint("mixtral", {{"num_local_experts", 65536}}), "is 65536; expected a whole number from 1 to"));
  CHECK(has(family_complaint("mixtral", {{"num_local_experts", 65536}, {"num_hidden_layers", 4096}}), "from 1 to 32"));
  CHECK(has(family_complaint("mixtral", {{"norm_topk_prob", true}}), "\"norm_topk_prob\" is unknown"));
  CHECK(has(family_complaint("mistral_window", {{"sliding_window", 0}}), "\"sliding_window\" is 0"));
  CHECK(has(family_complaint("mistral_window", {{"layer_types", json::array()}}), "\"layer_types\" is unknown"));
  CHECK(has(family_complaint("qwen2_window", {{"layer_types", json::array({"full_attention"})}}),
            "\"layer_types\" is [\"full_attention\"]; expected a list of 3 names"));
  CHECK(
      has(family_complaint("qwen2_yarn", {{"layer_types", {"full_attention", "full_attention", "sliding_attention"}}}),
          "each \"full_attention\", for there is no window"));
  CHECK(has(family_complaint("qwen2_window", {{"use_mrope", true}}), "\"use_mrope\" is true; expected false"));
  CHECK(has(family_complaint("smollm3", {{"no_rope_layers", {1, 2}}}), "expected a list of 4 numbers, each 0 or 1"));
  CHECK(has(family_complaint("seed_oss", {{"mlp_bias", true}}), "\"mlp_bias\" is true; expected false"));
  CHECK(has(family_complaint("phi3_longrope", {{"original_max_position_embeddings", nullptr}}),
            "\"original_max_position_embeddings\" is missing"));
  CHECK(has(family_complaint("phi3_longrope", {{"original_max_position_embeddings", 128}}), "is 128 beside RoPE's"));
  CHECK(has(family_complaint("phi3_longrope", {{"partial_rotary_factor", 0.75}}), "\"partial_rotary_factor\" is 0.75"));
  CHECK(has(family_complaint("phi3_longrope", {{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2}}}}),
            "rope type \"linear\" is not one of model_type phi3"));
  CHECK(has(family_complaint("qwen3", {{"torch_dtype", "int8"}}), "\"torch_dtype\" is \"int8\""));
}

TEST_CASE("Any value under any key of a family's config is read, or refused in one line", "[config]") {
  const std::vector<json> values{nullptr,
                                 true,
                                 false,
                                 -1,
                                 0,
                                 1,
                                 3,
                                 1e300,
                                 0.5,
                                 "x",
                                 "",
                                 json::array(),
                                 json::array({1, -1, "full_attention"}),
                                 json::object(),
                                 json{{"rope_type", "yarn"}},
                                 9223372036854775807,
                                 18446744073709551615u};
  for (const auto& entry : std::filesystem::directory_iterator(kFamilies)) {
    const json config = read_json_file(entry.path() / "config.json");
    auto check = [&](const json& changed) {
      ScratchDir dir;
      dir.write("config.json", changed.dump());
      try {
        const ModelConfig read = load_model_config(dir.path());
        REQUIRE((read.layers >= 1 && read.kv_heads >= 1 && read.q_heads % read.kv_heads == 0 && read.window >= 0));
        REQUIRE((read.windowed.empty() || std::ssize(read.windowed) == read.layers));
        rope_frequencies(read.rope, read.head_dim, 1000);
      } catch (const UserError& error) {
        REQUIRE(error.code == Exit::bad_model);
        REQUIRE(std::string(error.what()).find('\n') == std::string::npos);
      }
    };
    CAPTURE(entry.path().filename().string());
    for (const auto& [key, old] : config.items())
      for (const json& value : values) {
        CAPTURE(key, value.dump());
        json changed = config;
        changed[key] = value;
        check(changed);
      }
    for (const char* object : {"rope_parameters", "dual_chunk_attention_config"}) {
      if (!config.contains(object)) continue;
      for (const auto& [key, old] : config[object].items())
        for (const json& value : values) {
          CAPTURE(object, key, value.dump());
          json changed = config;
          changed[object][key] = value;
          check(changed);
        }
    }
  }
}

}  // namespace longhaul
