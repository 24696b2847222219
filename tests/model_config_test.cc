// config.json and generation_config.json: what is read, what is refused and in which words; rope frequencies.
#include "runtime/model/model_config.h"

#include <cmath>

#include "kernels/base/error.h"
#include "runtime/model/read_rope.h"
#include "tests/support/catch.h"
#include "tests/support/config_files.h"

namespace longhaul {
namespace {

using nlohmann::json;
using namespace test;

json small_config() {
  return {{"model_type", "llama"},    {"hidden_size", 128},        {"num_hidden_layers", 3},
          {"num_attention_heads", 4}, {"intermediate_size", 192},  {"vocab_size", 320},
          {"rms_norm_eps", 1e-6},     {"torch_dtype", "bfloat16"}, {"max_position_embeddings", 512},
          {"num_key_value_heads", 2}, {"rope_theta", 10000.0}};
}

/// `small_config` with some keys changed; a null value removes the key.
std::string complaint_with(const json& changes) {
  json config = small_config();
  for (const auto& [key, value] : changes.items()) {
    if (value.is_null()) config.erase(key);
    else config[key] = value;
  }
  return complaint([&] { load(config); });
}

}  // namespace

TEST_CASE("The configs of the test families read as they are meant", "[config]") {
  const auto mha = load_model_config(kFamilies / "llama2_mha");
  CHECK(mha.model_type == "llama");
  CHECK(mha.hidden == 128);
  CHECK(mha.layers == 3);
  CHECK(mha.q_heads == 4);
  CHECK(mha.kv_heads == 4);
  CHECK(mha.head_dim == 32);
  CHECK(mha.intermediate == 192);
  CHECK(mha.vocab == 320);
  CHECK(mha.max_position == 512);
  CHECK(mha.rms_norm_eps == 1e-6f);
  CHECK(mha.rope.type == RopeType::standard);
  CHECK(mha.rope.theta == 10000);
  CHECK_FALSE(mha.tied_embeddings);
  CHECK(mha.bos == 1);
  CHECK(mha.eos == std::vector<std::int32_t>{2});

  const auto gqa = load_model_config(kFamilies / "llama3_gqa");
  CHECK(gqa.kv_heads == 2);
  CHECK(gqa.head_dim == 64);
  CHECK(gqa.rope.type == RopeType::llama3);
  CHECK(gqa.rope.theta == 500000);
  CHECK(gqa.rope.factor == 8);
  CHECK(gqa.rope.low_freq_factor == 1);
  CHECK(gqa.rope.high_freq_factor == 4);
  CHECK(gqa.rope.original_max_position == 64);

  const auto tied = load_model_config(kFamilies / "llama_tied");
  CHECK(tied.tied_embeddings);
  CHECK(tied.head_dim == 128);

  const auto linear = load_model_config(kFamilies / "vicuna_linear");
  CHECK(linear.rope.type == RopeType::linear);
  CHECK(linear.rope.factor == 4);
  CHECK(linear.max_position == 512);

  const auto dynamic = load_model_config(kFamilies / "llama_dynamic");
  CHECK(dynamic.rope.type == RopeType::dynamic);
  CHECK(dynamic.rope.original_max_position == 512);
  CHECK(dynamic.max_position == 1024);
}

TEST_CASE("The bundled model's config, in the older schema", "[config]") {
  const auto dir = std::filesystem::path(LONGHAUL_SOURCE_DIR) / "apps/demo/demo-7m";
  const auto config = load_model_config(dir);
  CHECK(config.layers == 8);
  CHECK(config.rope.theta == 500000);
  CHECK(config.max_position == 32768);
  CHECK(config.bos == 0);
  CHECK(config.eos == std::vector<std::int32_t>{1, 4});
  const auto defaults = load_generation_defaults(dir);
  CHECK(defaults.temperature == 0);
  CHECK(defaults.max_new_tokens == 256);
}

TEST_CASE("Keys left out take the reference's defaults", "[config]") {
  json config = small_config();
  config.erase("num_key_value_heads");
  config.erase("rope_theta");
  config["rope_scaling"] = nullptr;
  config["bos_token_id"] = nullptr;
  const auto read = load(config);
  CHECK(read.kv_heads == 4);
  CHECK(read.head_dim == 32);
  CHECK(read.rope.theta == 10000);
  CHECK_FALSE(read.bos);
  CHECK(read.eos == std::vector<std::int32_t>{2});
}

TEST_CASE("rope_scaling under either name of its type", "[config]") {
  for (const char* name : {"type", "rope_type"}) {
    json config = small_config();
    config["rope_scaling"] = {{name, "linear"}, {"factor", 4}};
    config["max_sequence_length"] = 2048;
    const auto read = load(config);
    CHECK(read.rope.type == RopeType::linear);
    CHECK(read.rope.factor == 4);
    CHECK(read.max_position == 2048);
  }
}

TEST_CASE("A config that we would misread is refused by name", "[config]") {
  CHECK(complaint_with({}) == "no error");
  CHECK(has(complaint_with({{"hidden_sizes", 128}}), "config.json: the key \"hidden_sizes\" is unknown"));
  CHECK(has(complaint_with({{"model_type", "gemma3_text"}}),
            "model_type \"gemma3_text\" is not supported; supported: llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, "
            "phi3, seed_oss, smollm3"));
  CHECK(has(complaint_with({{"vocab_size", nullptr}}), "config.json: the key \"vocab_size\" is missing"));
  CHECK(has(complaint_with({{"vocab_size", "320"}}), "\"vocab_size\" is \"320\"; expected a whole number"));
  CHECK(has(complaint_with({{"hidden_size", 0}}), "\"hidden_size\" is 0; expected a whole number from 1"));
  CHECK(has(complaint_with({{"hidden_size", -8}}), "\"hidden_size\" is -8"));
  CHECK(has(complaint_with({{"hidden_size", 128.0}}), "\"hidden_size\" is 128.0"));
  CHECK(has(complaint_with({{"num_hidden_layers", 18446744073709551615u}}), "is 18446744073709551615; expected"));
  CHECK(has(complaint_with({{"num_hidden_layers", true}}), "\"num_hidden_layers\" is true"));
  CHECK(has(complaint_with({{"rms_norm_eps", 0}}), "\"rms_norm_eps\" is 0"));
  CHECK(has(complaint_with({{"num_key_value_heads", 3}}), "4 is not a multiple of num_key_value_heads 3"));
  CHECK(
      has(complaint_with({{"num_attention_heads", 6}}), "hidden_size 128 is not a multiple of num_attention_heads 6"));
  CHECK(has(complaint_with({{"head_dim", 20}}), "head_dim is 20; expected a multiple of 8 up to 256"));
  CHECK(has(complaint_with({{"head_dim", 512}}), "head_dim is 512"));
  CHECK(has(complaint_with({{"torch_dtype", "float64"}}), "\"torch_dtype\" is \"float64\"; expected \"bfloat16\""));
  CHECK(has(complaint_with({{"dtype", "int8"}}), "\"dtype\" is \"int8\"; expected \"bfloat16\""));
  CHECK(has(complaint_with({{"hidden_act", "gelu"}}), "\"hidden_act\" is \"gelu\"; expected \"silu\""));
  CHECK(has(complaint_with({{"attention_bias", 1}}), "\"attention_bias\" is 1; expected true or false"));
  CHECK(has(complaint_with({{"sliding_window", 64}}), "the key \"sliding_window\" is unknown"));
  CHECK(has(complaint_with({{"num_local_experts", 4}}), "the key \"num_local_experts\" is unknown"));
  CHECK(has(complaint_with({{"dual_chunk_attention_config", {{"chunk_size", 8}}}}),
            "the key \"dual_chunk_attention_config\" is unknown"));
  CHECK(has(complaint_with({{"mlp_bias", true}}), "\"mlp_bias\" is true; expected false"));
  CHECK(has(complaint_with({{"pretraining_tp", 2}}), "\"pretraining_tp\" is 2; expected 1"));
  CHECK(has(complaint_with({{"tie_word_embeddings", 1}}), "\"tie_word_embeddings\" is 1; expected true or false"));
  CHECK(has(complaint_with({{"eos_token_id", {2, 320}}}), "\"eos_token_id\" is [2,320]; expected a token id"));
  CHECK(has(complaint_with({{"quantization_config", {{"bits", 4}}}}), "quantization_config: the key \"quant_method\""));
}

TEST_CASE("RoPE settings that we would misread are refused by name", "[config]") {
  const auto scaled = [](const json& scaling) { return complaint_with({{"rope_scaling", scaling}}); };
  CHECK(has(scaled({{"type", "mrope"}, {"factor", 4}}),
            "rope type \"mrope\" is not supported; expected default, linear, dynamic, llama3, yarn or longrope"));
  CHECK(has(scaled({{"type", "yarn"}}), "rope_scaling: the key \"factor\" is missing"));
  CHECK(has(scaled({{"type", "yarn"}, {"factor", 4}, {"low_freq_factor", 1}}), "\"low_freq_factor\" is unknown"));
  CHECK(
      has(scaled({{"type", "yarn"}, {"factor", 4}, {"beta_slow", 40}}), "\"beta_slow\" is 40; expected beta_fast >="));
  CHECK(has(scaled({{"type", "yarn"}, {"factor", 4}, {"attention_factor", 0}}), "\"attention_factor\" is 0"));
  CHECK(has(scaled({{"type", "longrope"}, {"factor", 4}}), "the key \"short_factor\" is missing"));
  CHECK(has(scaled({{"type", "longrope"}, {"short_factor", {1, 2}}, {"long_factor", {1, 2}}}),
            "\"short_factor\" is [1,2]; expected a list of 16 numbers above 0, half of head_dim"));
  CHECK(has(scaled({{"type", "su"}}), "rope type \"su\" is not supported"));
  CHECK(has(scaled({{"type", "linear"}}), "config.json: rope_scaling: the key \"factor\" is missing"));
  CHECK(has(scaled({{"type", "linear"}, {"factor", 0.5}}), "\"factor\" is 0.5"));
  CHECK(has(scaled({{"type", "linear"}, {"factor", 2}, {"beta", 1}}), "rope_scaling: the key \"beta\" is unknown"));
  CHECK(
      has(scaled({{"type", "linear"}, {"rope_type", "dynamic"}, {"factor", 2}}), "rope_type is \"dynamic\" but type"));
  CHECK(has(scaled("linear"), "rope_scaling: expected a JSON object, found string"));
  CHECK(has(scaled({{"type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}),
            "\"high_freq_factor\" is 4; expected more than low_freq_factor"));
  CHECK(has(complaint_with({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5000}}}}),
            "rope_theta is 10000 but rope_parameters.rope_theta is 5000"));
  CHECK(has(complaint_with({{"rope_parameters", json::object()}, {"rope_scaling", json::object()}}), "both"));
}

TEST_CASE("Generation defaults", "[config]") {
  ScratchDir dir;
  CHECK(load_generation_defaults(dir.path()).temperature == 0);
  CHECK(load_generation_defaults(kFamilies / "llama2_mha").eos == std::vector<std::int32_t>{2});
  const auto read = [&](const char* text) {
    dir.write("generation_config.json", text);
    return load_generation_defaults(dir.path());
  };
  const auto sampled = read(R"({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 4]})");
  CHECK(sampled.temperature == 0.6f);
  CHECK(sampled.top_p == 0.9f);
  CHECK(sampled.top_k == 50);
  CHECK(sampled.eos == std::vector<std::int32_t>{1, 4});
  CHECK(read(R"({"temperature": 0.6, "max_length": 4096})").temperature == 0);
  CHECK(sampled.repetition_penalty == 1);
  // Of Qwen2.5-7B-Instruct.
  const auto qwen = read(R"({"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": true,
                             "eos_token_id": [151645, 151643], "repetition_penalty": 1.05, "temperature": 0.7,
                             "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0"})");
  CHECK(qwen.repetition_penalty == 1.05f);
  CHECK(qwen.top_k == 20);
  CHECK(read(R"({"repetition_penalty": 1.1})").repetition_penalty == 1.1f);  // greedy answers are penalised, too
  for (const char* bad : {"0", "-1.05", "200", "\"1.1\"", "true"})
    CHECK(has(complaint([&] { read(("{\"repetition_penalty\": " + std::string(bad) + "}").c_str()); }),
              "generation_config.json: \"repetition_penalty\" is " + std::string(bad) +
                  "; expected a number from 0.01 to 100"));
  CHECK(has(complaint([&] { read(R"({"temprature": 1})"); }), "the key \"temprature\" is unknown"));
}

TEST_CASE("A file that is no JSON document says so in one line", "[config][json]") {
  ScratchDir dir;
  const auto file = dir.path() / "config.json";
  const auto read = [&] { return complaint([&] { load_model_config(dir.path()); }); };
  CHECK(has(read(), "config.json: no such file"));
  const auto with = [&](const std::string& text) {
    dir.write("config.json", text);
    return read();
  };
  CHECK(has(with(""), "config.json: is empty"));
  CHECK(has(with("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"), "is a Git LFS pointer"));
  CHECK(has(with("{\n \"a\": nope}"), "config.json: not valid JSON: at line 2, column 8"));
  CHECK(has(with("{\"a\": 1} trailing"), "not valid JSON: at line 1, column 1"));
  CHECK(has(with("{\"a\": 1e999}"), "not valid JSON"));
  CHECK(has(with("{\"a\": {\"b\": 1, \"b\": 2}}"), "the key \"b\" appears twice in one object"));
  CHECK(has(with("{\"a\": \"\xff\"}"), "not valid JSON"));
  CHECK(has(with(std::string(200, '[')), "nested more than 64 levels deep"));
  CHECK(has(with("[1]"), "config.json: expected a JSON object, found array"));
  CHECK(has(complaint([&] { read_json_file(file, 2); }), "3 bytes, more than the 2"));
  std::filesystem::remove(file);
  std::filesystem::create_directory(file);
  CHECK(has(read(), "config.json: is a folder, not a file"));
}

TEST_CASE("Rope frequencies equal the reference's in float32", "[config][rope]") {
  const auto cases = read_json_file(std::filesystem::path(LONGHAUL_SOURCE_DIR) / "tests/data/rope_frequencies.json");
  REQUIRE(cases.size() == 21);
  for (const json& one : cases) {
    const auto type = one["type"].get<std::string>();
    RopeConfig rope;
    rope.type = rope_type_of(type).value();
    rope.theta = one["theta"].get<double>();
    rope.factor = one.value("factor", 1.0);
    rope.low_freq_factor = one.value("low", 1.0);
    rope.high_freq_factor = one.value("high", 4.0);
    rope.original_max_position = one.value("trained", 0);
    rope.beta_fast = one.value("fast", 32.0);
    rope.beta_slow = one.value("slow", 1.0);
    rope.truncate = one.value("truncate", true);
    rope.short_factors = one.value("short", std::vector<double>{});
    rope.long_factors = one.value("long", std::vector<double>{});
    const auto got = rope_frequencies(rope, one["head_dim"].get<std::int64_t>(), one.value("seq_len", 1));
    const auto want = one["inv_freq"].get<std::vector<float>>();
    REQUIRE(got.size() == want.size());
    INFO(one.dump());
    for (std::size_t i = 0; i < want.size(); ++i)  // pow differs by an ulp or two between libraries
      CHECK(std::abs(got[i] - want[i]) <= 3e-7f * want[i]);
  }
}

}  // namespace longhaul
