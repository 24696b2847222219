#include "runtime/tokenizer/gguf_tokenizer.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "runtime/checkpoint/json_file.h"
#include "runtime/tokenizer/patterns.h"
#include "runtime/tokenizer/tokenizer.h"

namespace longhaul {
namespace {

using nlohmann::json;

constexpr const char* kMetaspace = "\u2581";  // what SentencePiece writes for a space

enum class TokenType : std::int64_t { normal = 1, unknown, control, user_defined, unused, byte };

/// What a name in tokenizer.ggml.pre stands for.
struct PreTokenizerOf {
  std::string_view name;
  json (*cuts)();
  bool nfc = false, takes_words = false, bos = false;  // takes_words: whole, past the merges
};
constexpr auto kLlama3Cuts = [] { return then_bytes(split_part(kLlama3Pattern), false); };
constexpr auto kQwen2Cuts = [] { return then_bytes(split_part(kQwen2Pattern), false); };
constexpr PreTokenizerOf kPreTokenizers[] = {
    {.name = "llama-bpe", .cuts = kLlama3Cuts, .takes_words = true, .bos = true},
    {.name = "llama3", .cuts = kLlama3Cuts, .takes_words = true, .bos = true},
    {.name = "llama-v3", .cuts = kLlama3Cuts, .takes_words = true, .bos = true},
    {.name = "smaug-bpe", .cuts = kLlama3Cuts},  // SmolLM3
    {.name = "qwen2", .cuts = kQwen2Cuts, .nfc = true},
    {.name = "deepseek-r1-qwen", .cuts = kQwen2Cuts, .nfc = true},
    {.name = "tekken",  // Mistral Nemo and Small
     .cuts = [] { return then_bytes(split_part(kTekkenPattern), false); },
     .takes_words = true,
     .bos = true},
    {.name = "gpt-2", .cuts = [] { return byte_level_part(false, true); }},
    {.name = "smollm", .cuts = [] {
       return then_bytes({{"type", "Digits"}, {"individual_digits", true}}, true);
     }}};

class Writer {
 public:
  explicit Writer(const Gguf& file)
      : where_(file.path().string()), metadata_(file.metadata()), keys_(metadata_, where_) {
    const json& list = required_list("tokenizer.ggml.tokens");
    for (const json& token : list) {
      if (!token.is_string() || find_invalid_utf8(token.get_ref<const std::string&>()) != std::string::npos)
        refuse("tokenizer.ggml.tokens", "holds what is no UTF-8 text");
      tokens_.push_back(token.get<std::string>());
    }
    if (tokens_.empty()) refuse("tokenizer.ggml.tokens", "is empty");
    types_.assign(tokens_.size(), TokenType::normal);
    if (const json* types = same_length_list("tokenizer.ggml.token_type"))
      for (std::size_t i = 0; i < types->size(); ++i) {
        const json& type = (*types)[i];
        if (!type.is_number_integer() || type < 1 || type > 6)
          refuse("tokenizer.ggml.token_type", "holds an unknown type");
        types_[i] = static_cast<TokenType>(type.get<std::int64_t>());
      }
  }

  json write() {
    const std::string model = keys_.require("tokenizer.ggml.model", keys_.text("tokenizer.ggml.model"));
    json out{{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", added()}};
    if (model == "gpt2") byte_level_bpe(out);
    else if (model == "llama") sentencepiece_bpe(out);
    else
      throw UserError(Exit::bad_model, "{}: tokenizer.ggml.model {} is not supported; gpt2 and llama are", where_,
                      quoted(model));
    return out;
  }

  json config() {
    json out = json::object();
    if (const auto text = keys_.text("tokenizer.chat_template")) out["chat_template"] = *text;
    for (const char* name : {"bos", "eos", "unknown", "padding"})
      if (const auto id = token_id(name)) {
        const std::string_view key = name;
        out[key == "unknown"   ? "unk_token"
            : key == "padding" ? "pad_token"
                               : fmt::format("{}_token", key)] = tokens_[static_cast<std::size_t>(*id)];
      }
    return out;
  }

 private:
  [[noreturn]] void refuse(const char* key, const char* what) const {
    throw UserError(Exit::bad_model, "{}: {} {}", where_, key, what);
  }
  const json& required_list(const char* key) {
    const json* list = keys_.take(key);
    if (list == nullptr) keys_.missing(key);
    if (!list->is_array()) refuse(key, "is no list");
    return *list;
  }
  /// Null where absent.
  const json* same_length_list(const char* key) {
    if (!metadata_.contains(key)) return nullptr;
    const json& list = required_list(key);
    if (list.size() != tokens_.size()) refuse(key, "has another length than tokenizer.ggml.tokens");
    return &list;
  }
  std::optional<std::int64_t> token_id(const char* name) {
    return keys_.whole(fmt::format("tokenizer.ggml.{}_token_id", name), 0, std::ssize(tokens_) - 1);
  }

  bool is_added(std::size_t id) const {
    return types_[id] == TokenType::control || types_[id] == TokenType::user_defined ||
           types_[id] == TokenType::unknown;
  }
  json added() const {
    json out = json::array();
    for (std::size_t i = 0; i < tokens_.size(); ++i)
      if (is_added(i))
        out.push_back({{"id", i},
                       {"content", tokens_[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", types_[i] != TokenType::user_defined}});
    return out;
  }

  /// Tokens that BPE makes. Unused ones only fill the embedding table up.
  json vocabulary() const {
    json out = json::object();
    for (std::size_t i = 0; i < tokens_.size(); ++i)
      if ((!is_added(i) || types_[i] == TokenType::unknown) && types_[i] != TokenType::unused)
        if (!out.emplace(tokens_[i], i).second)
          throw UserError(Exit::bad_model, "{}: tokenizer.ggml.tokens: {} appears twice", where_, quoted(tokens_[i]));
    return out;
  }

  /// What is put around a text.
  json post_processor(bool bos_unless_said) {
    const bool bos = keys_.boolean("tokenizer.ggml.add_bos_token").value_or(bos_unless_said);
    const bool eos = keys_.boolean("tokenizer.ggml.add_eos_token").value_or(false);
    if (!bos && !eos) return nullptr;
    json single = json::array(), special = json::object();
    const auto add = [&](const char* name) {
      const auto id = token_id(name);
      if (!id) keys_.missing(fmt::format("tokenizer.ggml.{}_token_id", name));
      const std::string& text = tokens_[static_cast<std::size_t>(*id)];
      single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
      special[text] = {
          {"id", text}, {"ids", json::array({static_cast<std::uint64_t>(*id)})}, {"tokens", json::array({text})}};
    };
    if (bos) add("bos");
    single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
    if (eos) add("eos");
    return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", single}, {"special_tokens", special}};
  }

  void byte_level_bpe(json& out) {
    const std::string pre = keys_.require("tokenizer.ggml.pre", keys_.text("tokenizer.ggml.pre"));
    const auto known = std::ranges::find(kPreTokenizers, pre, &PreTokenizerOf::name);
    if (known == std::end(kPreTokenizers)) {
      std::string names;
      for (const PreTokenizerOf& one : kPreTokenizers) names += (names.empty() ? "" : ", ") + std::string(one.name);
      throw UserError(Exit::bad_model, "{}: tokenizer.ggml.pre {} is not supported; supported: {}", where_, quoted(pre),
                      names);
    }
    out["normalizer"] = known->nfc ? json::object({{"type", "NFC"}}) : json();
    out["pre_tokenizer"] = known->cuts();
    out["decoder"] = byte_level_part(true, true);
    out["post_processor"] = post_processor(known->bos);
    out["model"] = {{"type", "BPE"},
                    {"ignore_merges", known->takes_words},
                    {"vocab", vocabulary()},
                    {"merges", required_list("tokenizer.ggml.merges")}};
  }

  void sentencepiece_bpe(json& out) {
    json normalizers = json::array();
    if (keys_.boolean("tokenizer.ggml.add_space_prefix").value_or(true))
      normalizers.push_back({{"type", "Prepend"}, {"prepend", kMetaspace}});
    normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kMetaspace}});
    out["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
    out["pre_tokenizer"] = nullptr;
    out["decoder"] = {{"type", "Sequence"},
                      {"decoders",
                       {{{"type", "Replace"}, {"pattern", {{"String", kMetaspace}}}, {"content", " "}},
                        {{"type", "ByteFallback"}},
                        {{"type", "Fuse"}},
                        {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
    out["post_processor"] = post_processor(true);
    out["model"] = {{"type", "BPE"},          {"fuse_unk", true},      {"byte_fallback", true},
                    {"ignore_merges", false}, {"vocab", vocabulary()}, {"merges", merges_of_scores()}};
    if (const auto unknown = token_id("unknown"))
      out["model"]["unk_token"] = tokens_[static_cast<std::size_t>(*unknown)];
  }

  /// SentencePiece joins the pair whose result has the highest score: as a list, all pairs that make a token, best
  /// token first; of those that make the same, in the order of the parts' ids, as published tokenizer.json files have
  /// them.
  json merges_of_scores() {
    const json* scores = same_length_list("tokenizer.ggml.scores");
    if (scores == nullptr) keys_.missing("tokenizer.ggml.scores");
    std::unordered_map<std::string_view, std::size_t> ids;
    for (std::size_t i = 0; i < tokens_.size(); ++i)
      if (types_[i] == TokenType::normal) ids.emplace(tokens_[i], i);
    struct Pair {
      double score;
      std::size_t left, right;  // ids
    };
    std::vector<Pair> pairs;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (types_[i] != TokenType::normal) continue;
      if (!(*scores)[i].is_number()) refuse("tokenizer.ggml.scores", "holds what is no number");
      const std::string_view token = tokens_[i];
      for (std::size_t cut = 1; cut < token.size() && token.size() <= kLongestToken; ++cut) {
        if ((token[cut] & 0xc0) == 0x80) continue;  // inside a character
        const auto left = ids.find(token.substr(0, cut)), right = ids.find(token.substr(cut));
        if (left != ids.end() && right != ids.end())
          pairs.push_back({(*scores)[i].get<double>(), left->second, right->second});
      }
    }
    std::ranges::sort(pairs, [](const Pair& a, const Pair& b) {
      return std::tuple(-a.score, a.left, a.right) < std::tuple(-b.score, b.left, b.right);
    });
    json out = json::array();
    for (const Pair& pair : pairs) out.push_back(json::array({tokens_[pair.left], tokens_[pair.right]}));
    return out;
  }

  static constexpr std::size_t kLongestToken = 512;  // bytes; a longer one would take quadratic time to cut
  std::string where_;
  const json& metadata_;
  JsonObject keys_;
  std::vector<std::string> tokens_;
  std::vector<TokenType> types_;
};

}  // namespace

json gguf_tokenizer(const Gguf& file) { return Writer(file).write(); }
json gguf_tokenizer_config(const Gguf& file) { return Writer(file).config(); }

}  // namespace longhaul
