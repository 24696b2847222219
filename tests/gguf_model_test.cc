// What a GGUF file stands for: the config, the tokenizer and the template of its metadata; what --model names.
#include <algorithm>
#include <fstream>
#include <sstream>

#include "kernels/base/file.h"
#include "paths.h"
#include "runtime/checkpoint/gguf_config.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/checkpoint/model_files.h"
#include "runtime/tokenizer/gguf_tokenizer.h"
#include "tests/support/catch.h"
#include "tests/support/complaint.h"
#include "tests/support/gguf_file.h"
#include "tests/support/scratch_dir.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::complaint;
using test::contains;
using test::GgufFile;
using test::ScratchDir;

const fs::path kData = fs::path(LONGHAUL_SOURCE_DIR) / "tests/data";
constexpr std::uint32_t kF32 = 0, kF16 = 1;
// The patterns of the published tokenizer.json files.
const char* const kQwen2 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char* const kTekken =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

GgufFile small_model(const std::string& architecture) {
  nlohmann::ordered_json metadata{{"general.architecture", architecture},
                                  {"general.name", "small"},
                                  {"tokenizer.ggml.bos_token_id", 1},
                                  {"tokenizer.ggml.eos_token_id", 2}};
  const nlohmann::ordered_json shape{{"context_length", 512},
                                     {"embedding_length", 64},
                                     {"block_count", 2},
                                     {"feed_forward_length", 96},
                                     {"attention.head_count", 4},
                                     {"attention.head_count_kv", 2},
                                     {"attention.layer_norm_rms_epsilon", 1e-5},
                                     {"rope.dimension_count", 16}};
  for (const auto& [key, value] : shape.items()) metadata[architecture + "." + key] = value;
  return {.metadata = std::move(metadata), .tensors = {{"token_embd.weight", {64, 40}, kF16, 0, 64 * 40 * 2}}};
}
GgufFile small_llama() { return small_model("llama"); }

json config_of(const GgufFile& file) {
  ScratchDir dir;
  return gguf_config(Gguf::open_file(dir.write("m.gguf", file.bytes())));
}

/// The document's tokenizer, as a GGUF file would carry it.
GgufFile with_tokenizer(const json& document, const std::string& pre) {
  std::vector<std::string> tokens(document["model"]["vocab"].size());
  std::vector<std::int32_t> types(tokens.size(), 1);
  for (const auto& [text, id] : document["model"]["vocab"].items()) tokens.at(id.get<std::size_t>()) = text;
  for (const json& added : document["added_tokens"])
    types.at(added["id"].get<std::size_t>()) = added["special"] ? 3 : 4;
  json merges = json::array();
  for (const json& merge : document["model"]["merges"])
    merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  return {.metadata = {{"general.architecture", "llama"},
                       {"tokenizer.ggml.model", "gpt2"},
                       {"tokenizer.ggml.pre", pre},
                       {"tokenizer.ggml.tokens", tokens},
                       {"tokenizer.ggml.token_type", types},
                       {"tokenizer.ggml.merges", merges},
                       {"tokenizer.ggml.bos_token_id", 0},
                       {"tokenizer.ggml.eos_token_id", 1},
                       {"tokenizer.chat_template", "{{ bos_token }}hi"}}};
}

json tokenizer_of(const GgufFile& file) {
  ScratchDir dir;
  return gguf_tokenizer(Gguf::open_file(dir.write("m.gguf", file.bytes())));
}

}  // namespace

TEST_CASE("GGUF metadata becomes the config of the same model", "[gguf]") {
  const ModelConfig config = parse_model_config(config_of(small_llama()), "m.gguf");
  CHECK(config.hidden == 64);
  CHECK(config.layers == 2);
  CHECK(config.q_heads == 4);
  CHECK(config.kv_heads == 2);
  CHECK(config.head_dim == 16);
  CHECK(config.intermediate == 96);
  CHECK(config.vocab == 40);
  CHECK(config.max_position == 512);
  CHECK(config.rms_norm_eps == 1e-5f);
  CHECK(config.rope.type == RopeType::standard);
  CHECK(config.rope.theta == 10000);
  CHECK(config.tied_embeddings);
  CHECK(config.bos == 1);
  CHECK(config.eos == std::vector<std::int32_t>{2});

  GgufFile linear = small_llama();
  linear.metadata["llama.rope.scaling.type"] = "linear";
  linear.metadata["llama.rope.scaling.factor"] = 4.0;
  linear.metadata["tokenizer.ggml.eot_token_id"] = 7;
  const ModelConfig scaled = parse_model_config(config_of(linear), "m.gguf");
  CHECK(scaled.rope.type == RopeType::linear);
  CHECK(scaled.rope.factor == 4);
  CHECK(scaled.eos == std::vector<std::int32_t>{2, 7});

  // Divisors of frequencies, which were made with these parameters.
  const ModelSource tiny((kData / "quantised/gguf").string());
  const RopeConfig rope = tiny.config().rope;
  CHECK(tiny.name() == "tiny");
  CHECK(rope.type == RopeType::llama3);
  CHECK(rope.factor == 8);
  CHECK(rope.low_freq_factor == 1);
  CHECK(rope.high_freq_factor == 4);
  CHECK(rope.original_max_position == 256);
  CHECK(rope.theta == 500000);
  CHECK_FALSE(tiny.config().tied_embeddings);
}

TEST_CASE("GGUF metadata that no config expresses is refused by name", "[gguf]") {
  const auto with = [](const std::string& key, const json& value) {
    GgufFile file = small_llama();
    if (value.is_null()) file.metadata.erase(key);
    else file.metadata[key] = value;
    return complaint([&] { config_of(file); });
  };
  CHECK(with("general.quantized_by", "somebody") == "no error");
  CHECK_THAT(
      with("general.architecture", "gemma3"),
      contains("architecture \"gemma3\" is not supported; supported in GGUF: llama, qwen2, qwen3, qwen3moe, phi3, "
               "smollm3"));
  CHECK_THAT(with("general.architecture", nullptr), contains("the key \"general.architecture\" is missing"));
  CHECK_THAT(with("general.type", "adapter"), contains("\"general.type\" is \"adapter\"; expected \"model\""));
  CHECK_THAT(with("llama.block_count", nullptr), contains("the key \"llama.block_count\" is missing"));
  CHECK_THAT(with("llama.block_count", 0), contains("\"llama.block_count\" is 0; expected a whole number from 1"));
  CHECK_THAT(with("llama.block_count", -1), contains("\"llama.block_count\" is -1"));
  CHECK_THAT(with("llama.attention.head_count_kv", {2, 2}), contains("\"llama.attention.head_count_kv\" is [2,2]"));
  CHECK_THAT(with("llama.expert_count", 8), contains("the key \"llama.expert_used_count\" is missing"));
  CHECK_THAT(with("llama.attention.sliding_window", 64), contains("sliding_window\" is unknown"));
  CHECK_THAT(with("llama.rope.scaling.attn_factor", 1.5), contains("attn_factor\" is 1.5; expected 1"));
  CHECK_THAT(with("llama.rope.dimension_count", 8), contains("\"llama.rope.dimension_count\" is 8; expected 16"));
  CHECK_THAT(with("llama.attention.value_length", 8), contains("\"llama.attention.value_length\" is 8; expected 16"));
  CHECK_THAT(with("llama.rope.scaling.type", "su"), contains("rope.scaling.type \"su\" is not supported"));
  CHECK_THAT(with("llama.vocab_size", 41), contains("\"llama.vocab_size\" is 41; expected 40"));
  CHECK_THAT(with("llama.attention.clamp_kqv", 1.5), contains("the key \"llama.attention.clamp_kqv\" is unknown"));
  CHECK_THAT(with("split.count", 3), contains("is one of 3 files of a split model"));

  GgufFile qwen = small_model("qwen3");
  qwen.metadata["qwen3.expert_count"] = 8;
  CHECK_THAT(complaint([&] { config_of(qwen); }), contains("\"qwen3.expert_count\" is 8; expected 0"));

  GgufFile no_table = small_llama();
  no_table.tensors[0].name = "token_types.weight";
  CHECK_THAT(complaint([&] { config_of(no_table); }), contains("tensor \"token_embd.weight\" is missing"));
  GgufFile divisors = small_llama();
  divisors.tensors = {{"rope_freqs.weight", {8}, kF32, 0, 32}, {"token_embd.weight", {64, 40}, kF16, 32, 64 * 40 * 2}};
  CHECK_THAT(complaint([&] { config_of(divisors); }),
             contains("tensor \"rope_freqs.weight\": these divisors are not those of the llama3 rope type"));
  divisors.tensors[0].dims = {4};
  CHECK_THAT(complaint([&] { config_of(divisors); }), contains("has not one divisor for each of 8 frequencies"));
}

TEST_CASE("Phi3's factors in a GGUF file are taken as they are, or refused by name", "[gguf]") {
  GgufFile file = small_model("phi3");
  file.metadata["phi3.rope.scaling.attn_factor"] = 1.25;
  file.tensors = {{"rope_factors_long.weight", {8}, kF32, 0, 32},
                  {"rope_factors_short.weight", {8}, kF32, 32, 32},
                  {"token_embd.weight", {64, 40}, kF16, 64, 64 * 40 * 2}};
  const auto refused = [](const GgufFile& changed) { return complaint([&] { config_of(changed); }); };
  CHECK_THAT(refused(file), contains("the key \"phi3.rope.scaling.original_context_length\" is missing"));
  file.metadata["phi3.rope.scaling.original_context_length"] = 64;
  const json config = config_of(file);
  CHECK(config["original_max_position_embeddings"] == 64);
  CHECK(config["rope_parameters"]["rope_type"] == "longrope");
  CHECK(config["rope_parameters"]["attention_factor"] == 1.25);  // none that the lengths give
  CHECK(config["rope_parameters"]["long_factor"].size() == 8);
  GgufFile other = file;
  other.metadata["phi3.rope.scaling.type"] = "yarn";
  CHECK_THAT(refused(other), contains("has both rope.scaling.type \"yarn\" and rope_factors_long.weight"));
  other = file;
  other.tensors[1].name = "rope_factors_shorter.weight";
  CHECK_THAT(refused(other), contains("tensor \"rope_factors_short.weight\" is missing"));
  other.tensors[1].name = "rope_factors_short.weight";
  other.tensors[0].name = "rope_factors_longer.weight";
  CHECK_THAT(refused(other), contains("tensor \"rope_factors_long.weight\" is missing"));
  other = file;
  other.tensors[1].name = "rope_freqs.weight";
  CHECK_THAT(refused(other), contains("has both rope_freqs.weight and rope_factors_long.weight"));
  other = file;
  other.tensors[0].dims = {4, 2};
  CHECK_THAT(refused(other), contains("tensor \"rope_factors_long.weight\" is F32 [2, 4]; expected F32 [8]"));
}

TEST_CASE("A tokenizer inside a GGUF file gives the ids of the tokenizer.json it was made from", "[gguf]") {
  json document = read_json_file(kData / "longbook-tokenizer/tokenizer.json");
  const auto [pre, pattern, nfc] = GENERATE(table<std::string, std::string, bool>(
      {{"llama-bpe", "", false}, {"qwen2", kQwen2, true}, {"tekken", kTekken, false}}));
  if (!pattern.empty()) {  // as the tokenizer.json of Qwen2.5 and of Mistral Nemo
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern;
    document["normalizer"] = nfc ? json::object({{"type", "NFC"}}) : json();
    if (nfc) document["post_processor"] = nullptr;
    document["model"]["ignore_merges"] = !nfc;
  }
  CAPTURE(pre);
  const GgufFile file = with_tokenizer(document, pre);
  ScratchDir dir;
  const auto gguf = Gguf::open_file(dir.write("m.gguf", file.bytes()));
  const Tokenizer inside(gguf_tokenizer(gguf), "m.gguf"), original(document, "tokenizer.json");
  CHECK(inside.vocab_size() == original.vocab_size());
  int compared = 0;
  for (const char* name : {"longbook.jsonl", "recorded.jsonl"}) {
    std::istringstream lines(read_file(kData / "longbook-tokenizer" / name));
    for (std::string line; std::getline(lines, line); ++compared) {
      const std::string text = line;  // any text will do
      const auto ids = inside.encode(text, true);
      REQUIRE(ids == original.encode(text, true));
      REQUIRE(inside.decode(ids) == original.decode(ids));
    }
  }
  CHECK(compared > 100);
  CHECK(ChatTemplate(gguf_tokenizer_config(gguf), "m.gguf").render({}, true) == "<|begin_of_text|>hi");
}

TEST_CASE("SentencePiece scores become the merges that transformers makes of them", "[gguf]") {
  const std::string space = "\u2581";
  const json document = tokenizer_of(
      {.metadata = {{"general.architecture", "llama"},
                    {"tokenizer.ggml.model", "llama"},
                    {"tokenizer.ggml.tokens",
                     {"<unk>", "<s>", "</s>", "<0x00>", "a", "b", "c", "ab", "bc", "abc", space + "a", space}},
                    {"tokenizer.ggml.token_type", {2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1}},
                    {"tokenizer.ggml.scores", {0.0, 0.0, 0.0, 0.0, -10.0, -11.0, -12.0, -1.0, -3.0, -2.0, -0.5, -13.0}},
                    {"tokenizer.ggml.bos_token_id", 1},
                    {"tokenizer.ggml.unknown_token_id", 0}}});
  CHECK(document["model"]["merges"] == json::array({{space, "a"}, {"a", "b"}, {"a", "bc"}, {"ab", "c"}, {"b", "c"}}));
  CHECK(document["model"]["byte_fallback"] == true);
  CHECK(document["model"]["unk_token"] == "<unk>");
  CHECK(document["model"]["vocab"]["<0x00>"] == 3);
  CHECK(document["normalizer"]["normalizers"][0]["type"] == "Prepend");
  CHECK(document["post_processor"]["single"][0]["SpecialToken"]["id"] == "<s>");  // as SentencePiece does unless told
}

TEST_CASE("A GGUF tokenizer that is not known is refused by name", "[gguf]") {
  const GgufFile good{.metadata = {{"general.architecture", "llama"},
                                   {"tokenizer.ggml.model", "gpt2"},
                                   {"tokenizer.ggml.pre", "gpt-2"},
                                   {"tokenizer.ggml.tokens", {"a", "b", "ab"}},
                                   {"tokenizer.ggml.token_type", {1, 1, 1}},
                                   {"tokenizer.ggml.merges", {"a b"}}}};
  const auto with = [&](const std::string& key, const json& value) {
    GgufFile file = good;
    if (value.is_null()) file.metadata.erase(key);
    else file.metadata[key] = value;
    return complaint([&] { tokenizer_of(file); });
  };
  CHECK(with("general.name", "x") == "no error");
  CHECK_THAT(with("tokenizer.ggml.model", "t5"),
             contains("tokenizer.ggml.model \"t5\" is not supported; gpt2 and llama are"));
  CHECK_THAT(with("tokenizer.ggml.model", nullptr), contains("the key \"tokenizer.ggml.model\" is missing"));
  for (const char* pre : {"default", "gpt-4o", "qwen35"})
    CHECK_THAT(with("tokenizer.ggml.pre", pre),
               contains(fmt::format("tokenizer.ggml.pre \"{}\" is not supported", pre)));
  CHECK_THAT(with("tokenizer.ggml.pre", nullptr), contains("the key \"tokenizer.ggml.pre\" is missing"));
  CHECK_THAT(with("tokenizer.ggml.tokens", nullptr), contains("the key \"tokenizer.ggml.tokens\" is missing"));
  CHECK_THAT(with("tokenizer.ggml.tokens", {"a", "a", "ab"}), contains("tokenizer.ggml.tokens: \"a\" appears twice"));
  CHECK_THAT(with("tokenizer.ggml.tokens", {"a", "\xff", "ab"}),
             contains("tokenizer.ggml.tokens holds what is no UTF-8"));
  CHECK_THAT(with("tokenizer.ggml.token_type", {1, 1}), contains("tokenizer.ggml.token_type has another length"));
  CHECK_THAT(with("tokenizer.ggml.token_type", {1, 1, 9}), contains("tokenizer.ggml.token_type holds an unknown type"));
  CHECK_THAT(with("tokenizer.ggml.merges", nullptr), contains("the key \"tokenizer.ggml.merges\" is missing"));
  CHECK_THAT(with("tokenizer.ggml.add_bos_token", true),
             contains("the key \"tokenizer.ggml.bos_token_id\" is missing"));
  GgufFile unknown = good;
  unknown.metadata["tokenizer.ggml.merges"] = {"a z"};
  CHECK_THAT(complaint([&] { Tokenizer(tokenizer_of(unknown), "m.gguf"); }),
             contains("token \"z\" is not in the vocabulary"));
}

TEST_CASE("A GGUF file is a whole model", "[gguf]") {
  const ModelFiles model((kData / "quantised/gguf/tiny.gguf").string());
  CHECK(model.name == "tiny");
  CHECK(model.eos() == std::vector<std::int32_t>{1});
  const auto ids = model.prompt_ids({{"user", "hello world <|end|>"}});
  CHECK(ids.front() == 0);
  CHECK(ids[1] == 2);
  CHECK(model.tokenizer.decode(ids, false) == "<|bos|><|user|>hello world <|end|><|end|><|assistant|>");
  CHECK(std::ranges::count(ids, 1) == 1);  // what a message says is no special token
}

TEST_CASE("What --model names is a folder or a GGUF file, and nothing outside it is opened", "[gguf]") {
  ScratchDir dir;
  const auto source = [](const fs::path& path) { return complaint([&] { ModelSource model(path.string()); }); };
  const auto write = [](const fs::path& path, const std::string& bytes) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
  };
  CHECK_THAT(source(dir.path() / "none"),
             contains("no such folder; give a folder with config.json and safetensors, or"));
  write(dir.path() / "f/m.bin", "x");
  CHECK_THAT(source(dir.path() / "f/m.bin"), contains("is a file; give a folder"));
  write(dir.path() / "two/a.gguf", small_llama().bytes());
  CHECK(source(dir.path() / "two") == "no error");
  CHECK(source(dir.path() / "two/a.gguf") == "no error");
  write(dir.path() / "two/b.gguf", small_llama().bytes());
  CHECK_THAT(source(dir.path() / "two"), contains("holds 2 GGUF files; name the one that is meant"));

  write(dir.path() / "secret.json", "{}");
  fs::create_directories(dir.path() / "linked");
  fs::create_symlink("../secret.json", dir.path() / "linked/config.json");
  CHECK_THAT(source(dir.path() / "linked"), contains("linked/config.json: is a link out of the model's folder, to "));
  fs::remove(dir.path() / "linked/config.json");
  fs::create_symlink("nowhere", dir.path() / "linked/model.safetensors");
  CHECK_THAT(source(dir.path() / "linked"), contains("linked/model.safetensors: is a link to nothing"));

  write(dir.path() / "cache/blobs/0123", "{}");  // as a hub's cache is laid out
  fs::create_directories(dir.path() / "cache/snapshots/main");
  fs::create_symlink("../../blobs/0123", dir.path() / "cache/snapshots/main/config.json");
  CHECK(source(dir.path() / "cache/snapshots/main") == "no error");
  fs::create_symlink("../../../secret.json", dir.path() / "cache/snapshots/main/tokenizer.json");
  CHECK_THAT(source(dir.path() / "cache/snapshots/main"),
             contains("tokenizer.json: is a link out of the model's folder"));
}

}  // namespace longhaul
