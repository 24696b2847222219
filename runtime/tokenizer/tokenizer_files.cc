#include "runtime/tokenizer/tokenizer_files.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/tokenizer/tiktoken.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Of cl100k_base and of Llama 3.
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::uintmax_t kLargestFile = 64 << 20;

std::string read_text(const fs::path& file) {
  std::error_code failed;
  const auto bytes = fs::file_size(file, failed);
  if (!failed && bytes > kLargestFile)
    throw UserError(Exit::bad_model, "{}: {} bytes, more than the {} that such a file may have", file.string(), bytes,
                    kLargestFile);
  std::string text = read_file(file);
  if (is_lfs_pointer(text))
    throw UserError(Exit::bad_model, "{}: is a Git LFS pointer, not the file: run `git lfs pull`", file.string());
  return text;
}

json config_of(const fs::path& dir) {
  const fs::path file = dir / "tokenizer_config.json";
  return fs::exists(file) ? read_json_file(file) : json::object();
}

std::string class_of(const json& config) {
  const auto found = config.find("tokenizer_class");
  if (found == config.end() || !found->is_string()) return "";
  std::string name = *found;
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  return name;
}

// added_tokens_decoder of tokenizer_config.json, {"ID": {"content": ...}}, as tokenizer.json has it.
json added_tokens_of(const json& config, const fs::path& dir) {
  json list = json::array();
  const auto found = config.find("added_tokens_decoder");
  if (found == config.end()) return list;
  const JsonRef tokens(*found, (dir / "tokenizer_config.json").string() + ": added_tokens_decoder");
  for (const auto& [id, token] : tokens.object().items()) {
    if (id.empty() || id.size() > 9 || id.find_first_not_of("0123456789") != std::string::npos)
      tokens.refuse(fmt::format("{:?} is no token id", id));
    json entry = JsonRef(token, fmt::format("{}[{:?}]", tokens.where(), id)).object();
    entry["id"] = static_cast<std::uint64_t>(std::stoul(id));
    list.push_back(std::move(entry));
  }
  std::sort(list.begin(), list.end(), [](const json& a, const json& b) { return a["id"] < b["id"]; });
  return list;
}

bool flag(const json& config, const fs::path& dir, const char* key, bool otherwise) {
  return JsonRef(config, (dir / "tokenizer_config.json").string())[key].boolean_or(otherwise);
}

json byte_level(bool prefix_space, bool cuts) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", prefix_space}, {"trim_offsets", true}, {"use_regex", cuts}};
}

json document_of(json model, const char* pattern, bool nfc, bool prefix_space, json added) {
  const json split{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  return {{"added_tokens", std::move(added)},
          {"normalizer", nfc ? json::object({{"type", "NFC"}}) : json()},
          {"pre_tokenizer",
           {{"type", "Sequence"}, {"pretokenizers", json::array({split, byte_level(prefix_space, false)})}}},
          {"decoder", byte_level(true, true)},
          {"model", std::move(model)}};
}

TokenizerModel from_vocab_and_merges(const fs::path& dir) {
  const json config = config_of(dir);
  const std::string kind = class_of(config);
  const bool qwen = kind == "Qwen2Tokenizer", gpt2 = kind == "GPT2Tokenizer" || kind == "CodeGenTokenizer";
  if (!qwen && !gpt2)
    throw UserError(Exit::bad_model,
                    "{}: vocab.json and merges.txt of tokenizer_class {:?} are not supported (GPT2Tokenizer, "
                    "CodeGenTokenizer and Qwen2Tokenizer are); download the model's tokenizer.json",
                    dir.string(), kind);
  json merges = json::array();
  const std::string text = read_text(dir / "merges.txt");
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) merges.push_back(std::string(line));
  }
  json model{{"type", "BPE"}, {"vocab", read_json_file(dir / "vocab.json")}, {"merges", std::move(merges)}};
  const bool spaced = gpt2 && flag(config, dir, "add_prefix_space", false);
  json document = document_of(std::move(model), qwen ? kQwen2 : kGpt2, qwen, spaced, added_tokens_of(config, dir));
  // GPT-2's own pattern comes with the prefix space, which is put before the pattern is applied.
  if (gpt2) document["pre_tokenizer"] = byte_level(spaced, true);
  return tokenizer_model(document, (dir / "vocab.json with merges.txt").string());
}

json numbered(json list, std::int64_t first, const std::vector<std::string>& texts) {
  for (const std::string& text : texts)
    list.push_back({{"id", static_cast<std::uint64_t>(first++)}, {"content", text}, {"special", true}});
  return list;
}

// The control tokens that Llama 3's code has and its file has not.
std::vector<std::string> llama3_tokens() {
  std::vector<std::string> texts{"<|begin_of_text|>",
                                 "<|end_of_text|>",
                                 "<|reserved_special_token_0|>",
                                 "<|reserved_special_token_1|>",
                                 "<|finetune_right_pad_id|>",
                                 "<|reserved_special_token_2|>",
                                 "<|start_header_id|>",
                                 "<|end_header_id|>",
                                 "<|eom_id|>",
                                 "<|eot_id|>",
                                 "<|python_tag|>"};
  for (int i = 3; texts.size() < 256; ++i) texts.push_back(fmt::format("<|reserved_special_token_{}|>", i));
  return texts;
}

std::vector<std::string> qwen_tokens() {
  std::vector<std::string> texts{"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (int i = 0; i < 205; ++i) texts.push_back(fmt::format("<|extra_{}|>", i));
  return texts;
}

TokenizerModel from_tiktoken(const fs::path& file, std::string_view text, const fs::path& dir) {
  const json config = config_of(dir);
  const std::string kind = class_of(config), stem = file.stem().string();
  json model = tiktoken_model(text, file.string());
  const auto size = static_cast<std::int64_t>(model["vocab"].size());
  json added = added_tokens_of(config, dir);
  // The file has no pattern: it must be one that we know.
  const bool qwen = kind == "QWenTokenizer" || stem == "qwen",
             llama3 = file.filename() == "tokenizer.model" && size == 128000;
  if (qwen && added.empty()) added = numbered({}, size, qwen_tokens());
  if (llama3 && added.empty()) added = numbered({}, size, llama3_tokens());
  const bool gpt2 = stem == "r50k_base" || stem == "p50k_base" || stem == "gpt2", cl100k = stem == "cl100k_base";
  if (!qwen && !llama3 && !gpt2 && !cl100k)
    throw UserError(
        Exit::bad_model,
        "{}: ranks in tiktoken's format do not say how text is cut, and tokenizer_class {:?} with {} tokens "
        "is not known (Llama 3, QWenTokenizer, cl100k_base and r50k_base are); download tokenizer.json",
        file.string(), kind, size);
  // tiktoken takes whole words from the ranks but for those of the GPT-2 generation.
  const char* pattern = gpt2 ? kGpt2 : kLlama3;
  json document = document_of(std::move(model), qwen ? kQwen2 : pattern, qwen, false, std::move(added));
  if (llama3) {
    const json begin{{"SpecialToken", {{"id", "<|begin_of_text|>"}, {"type_id", 0}}}};
    const json sequence{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
    document["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", json::array({begin, sequence})},
        {"special_tokens", {{"<|begin_of_text|>", {{"ids", json::array({static_cast<std::uint64_t>(size)})}}}}}};
  }
  return tokenizer_model(document, file.string());
}

TokenizerModel from_sentencepiece(const fs::path& file, const fs::path& dir) {
  const json config = config_of(dir);
  auto pieces = std::make_unique<SentencePiece>(file);
  using Kind = SentencePiece::Kind;
  json vocab = json::object(), added = json::array(), merges = json::array();
  std::uint64_t id = 0;
  for (const SentencePiece::Piece& piece : pieces->pieces()) {
    if (piece.kind == Kind::control || piece.kind == Kind::user_defined || piece.kind == Kind::unknown)
      added.push_back({{"id", id}, {"content", piece.text}, {"special", piece.kind != Kind::user_defined}});
    vocab[piece.text] = id++;
  }
  for (json& token : added_tokens_of(config, dir))
    if (token["id"].get<std::uint64_t>() >= id) added.push_back(std::move(token));
  const json space = json::object({{"String", "\u2581"}});
  json decoders = json::array({json::object({{"type", "Replace"}, {"pattern", space}, {"content", " "}}),
                               json::object({{"type", "ByteFallback"}}), json::object({{"type", "Fuse"}})});
  if (pieces->adds_space())
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", std::uint64_t{1}}, {"stop", std::uint64_t{0}}});
  const json document{{"added_tokens", std::move(added)},
                      {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}},
                      {"model", {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", std::move(merges)}}}};
  TokenizerModel model = tokenizer_model(document, file.string());
  if (pieces->begin_id() >= 0 && flag(config, dir, "add_bos_token", true)) model.around.prefix = {pieces->begin_id()};
  if (pieces->end_id() >= 0 && flag(config, dir, "add_eos_token", false)) model.around.suffix = {pieces->end_id()};
  model.pieces = std::move(pieces);
  return model;
}

}  // namespace

TokenizerModel load_tokenizer_model(const fs::path& dir) {
  std::error_code unknown;
  const auto has = [&](const char* name) { return fs::exists(dir / name, unknown); };
  if (has("tokenizer.json"))
    return tokenizer_model(read_json_file(dir / "tokenizer.json"), (dir / "tokenizer.json").string());
  if (has("tokenizer.model")) {
    const std::string text = read_text(dir / "tokenizer.model");
    if (is_tiktoken(text)) return from_tiktoken(dir / "tokenizer.model", text, dir);
    return from_sentencepiece(dir / "tokenizer.model", dir);
  }
  for (const auto& entry : fs::directory_iterator(dir, unknown))
    if (entry.path().extension() == ".tiktoken") return from_tiktoken(entry.path(), read_text(entry.path()), dir);
  if (has("vocab.json") && has("merges.txt")) return from_vocab_and_merges(dir);
  throw UserError(Exit::bad_model, "{}: no such file; download the model's tokenizer.json there",
                  (dir / "tokenizer.json").string());
}

}  // namespace longhaul
