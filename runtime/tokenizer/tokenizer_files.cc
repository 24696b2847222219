#include "runtime/tokenizer/tokenizer_files.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/tokenizer/patterns.h"
#include "runtime/tokenizer/tiktoken.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t kLargestFile = 64 << 20;

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

json document_of(json model, json pre_tokenizer, bool nfc, json added) {
  return {{"added_tokens", std::move(added)},
          {"normalizer", nfc ? json::object({{"type", "NFC"}}) : json()},
          {"pre_tokenizer", std::move(pre_tokenizer)},
          {"decoder", byte_level_part(true, true)},
          {"model", std::move(model)}};
}

TokenizerModel from_vocab_and_merges(const fs::path& dir) {
  const json config = read_tokenizer_config(dir);
  const std::string kind = class_of(config);
  const bool qwen = kind == "Qwen2Tokenizer", gpt2 = kind == "GPT2Tokenizer" || kind == "CodeGenTokenizer";
  if (!qwen && !gpt2)
    throw UserError(Exit::bad_model,
                    "{}: vocab.json and merges.txt of tokenizer_class {:?} are not supported (GPT2Tokenizer, "
                    "CodeGenTokenizer and Qwen2Tokenizer are); download the model's tokenizer.json",
                    dir.string(), kind);
  json merges = json::array();
  const std::string text = read_text_file(dir / "merges.txt", kLargestFile);
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) merges.push_back(std::string(line));
  }
  json model{{"type", "BPE"}, {"vocab", read_json_file(dir / "vocab.json")}, {"merges", std::move(merges)}};
  const bool spaced = gpt2 && flag(config, dir, "add_prefix_space", false);
  // GPT-2's own pattern comes with the prefix space, which is put before the pattern is applied.
  json cuts = qwen ? then_bytes(split_part(kQwen2Pattern), false) : byte_level_part(spaced, true);
  const json document = document_of(std::move(model), std::move(cuts), qwen, added_tokens_of(config, dir));
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
  const json config = read_tokenizer_config(dir);
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
  const char* pattern = qwen ? kQwen2Pattern : gpt2 ? kGpt2Pattern : kLlama3Pattern;
  json document = document_of(std::move(model), then_bytes(split_part(pattern), false), qwen, std::move(added));
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

// Where spaces are put that a text has not. `legacy: false` is transformers' repair of what SentencePiece does: a space
// before a text, and none behind an added token.
SentencePiece::Prefix prefix_of(const json& config, const fs::path& dir, const SentencePieceFile& file) {
  using enum SentencePiece::Prefix;
  if (!flag(config, dir, "add_prefix_space", file.adds_space)) return never;
  return flag(config, dir, "legacy", true) ? always : first;
}

TokenizerModel from_sentencepiece(const fs::path& path, std::string bytes, const fs::path& dir) {
  const json config = read_tokenizer_config(dir);
  SentencePieceFile file = read_sentencepiece(std::move(bytes), path.string());
  const SentencePiece::Prefix prefix = prefix_of(config, dir, file);
  using Kind = SentencePieceFile::Kind;
  json vocab = json::object(), added = json::array(), merges = json::array();
  std::uint64_t id = 0;
  for (const SentencePieceFile::Piece& piece : file.pieces) {
    if (piece.kind == Kind::control || piece.kind == Kind::user_defined || piece.kind == Kind::unknown)
      added.push_back({{"id", id}, {"content", piece.text}, {"special", piece.kind != Kind::user_defined}});
    vocab[piece.text] = id++;
  }
  for (json& token : added_tokens_of(config, dir))
    if (token["id"].get<std::uint64_t>() >= id) added.push_back(std::move(token));
  const json space = json::object({{"String", "\u2581"}});
  json decoders = json::array({json::object({{"type", "Replace"}, {"pattern", space}, {"content", " "}}),
                               json::object({{"type", "ByteFallback"}}), json::object({{"type", "Fuse"}})});
  if (prefix != SentencePiece::Prefix::never)
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", std::uint64_t{1}}, {"stop", std::uint64_t{0}}});
  const json document{{"added_tokens", std::move(added)},
                      {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}},
                      {"model", {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", std::move(merges)}}}};
  auto pieces = std::make_unique<SentencePiece>(std::move(file), path.string(), prefix);
  TokenizerModel model = tokenizer_model(document, path.string());
  model.pieces = std::move(pieces);
  const std::int32_t begin = model.pieces->begin_id(), end = model.pieces->end_id();
  if (begin >= 0 && flag(config, dir, "add_bos_token", true)) model.around.prefix = {begin};
  if (end >= 0 && flag(config, dir, "add_eos_token", false)) model.around.suffix = {end};
  return model;
}

}  // namespace

TokenizerModel load_tokenizer_model(const fs::path& dir) {
  std::error_code unknown;
  const auto has = [&](const char* name) { return fs::exists(dir / name, unknown); };
  if (has("tokenizer.json"))
    return tokenizer_model(read_json_file(dir / "tokenizer.json"), (dir / "tokenizer.json").string());
  if (has("tokenizer.model")) {
    const fs::path file = dir / "tokenizer.model";
    std::string text = read_text_file(file, kLargestFile);
    return is_tiktoken(text) ? from_tiktoken(file, text, dir) : from_sentencepiece(file, std::move(text), dir);
  }
  for (const auto& entry : fs::directory_iterator(dir, unknown))
    if (entry.path().extension() == ".tiktoken")
      return from_tiktoken(entry.path(), read_text_file(entry.path(), kLargestFile), dir);
  if (has("vocab.json") && has("merges.txt")) return from_vocab_and_merges(dir);
  throw UserError(Exit::bad_model, "{}: no such file; download the model's tokenizer.json there",
                  (dir / "tokenizer.json").string());
}

}  // namespace longhaul
