#include "runtime/tokenizer_model.h"

#include "kernels/base/error.h"
#include "runtime/json_file.h"

namespace longhaul {
namespace {

struct Vocabulary {
  std::vector<TokenizerModel::Token> tokens;
  TextMap<std::int32_t> ids;

  void put(std::int32_t id, std::string_view text, bool special, const JsonRef& from) {
    constexpr std::int32_t kMost = 1 << 24;  // far above any vocabulary, and small enough to index
    if (id >= kMost) from.refuse(fmt::format("token id {} is out of range", id));
    if (static_cast<std::size_t>(id) >= tokens.size()) tokens.resize(id + 1);
    // As the reference's byte-level decoder: a text in the byte alphabet is bytes, another is itself.
    tokens[id] = {bytes_of_spelling(text).value_or(std::string(text)), true, special};
  }
};

Vocabulary read_vocabulary(const JsonRef& json) {
  Vocabulary out;
  out.ids.reserve(json.object().size());
  for (const auto& [text, value] : json.object().items()) {
    const JsonRef entry(value, fmt::format("{}[{:?}]", json.where(), text));
    const std::int32_t id = entry.id();
    if (static_cast<std::size_t>(id) < out.tokens.size() && out.tokens[id].used)
      entry.refuse(fmt::format("id {} belongs to another token already", id));
    out.put(id, text, false, entry);
    out.ids.emplace(text, id);
  }
  return out;
}

std::vector<BpeMerge> read_merges(const JsonRef& json, const TextMap<std::int32_t>& ids) {
  std::vector<BpeMerge> merges;
  merges.reserve(json.array_size());
  for (std::size_t i = 0; i < json.array_size(); ++i) {
    const auto refuse = [&](std::string_view what) { json.element(i).refuse(what); };
    const nlohmann::json& value = json.value()[i];
    std::string left, right;
    if (value.is_string()) {
      const auto& text = value.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;  // a line of the older merges.txt
      const std::size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
        refuse("must be two tokens with one space between");
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else {
      const JsonRef pair = json.element(i);
      if (pair.array_size() != 2) refuse("must be two tokens");
      left = pair.element(0).string();
      right = pair.element(1).string();
    }
    const auto id = [&](const std::string& token) {
      const auto found = ids.find(token);
      if (found == ids.end()) refuse(fmt::format("token {:?} is not in the vocabulary", token));
      return found->second;
    };
    const std::int32_t left_id = id(left), right_id = id(right);
    merges.push_back({left_id, right_id, id(left + right)});
  }
  return merges;
}

Bpe::Bytes read_bytes(const JsonRef& model, const TextMap<std::int32_t>& ids) {
  Bpe::Bytes bytes;
  for (int b = 0; b < 256; ++b) {
    const auto found = ids.find(spelling_of_byte(static_cast<unsigned char>(b)));
    bytes.ids[b] = found == ids.end() ? -1 : found->second;
  }
  if (const JsonRef unknown = model["unk_token"]; !unknown.is_null()) {
    const auto found = ids.find(unknown.string());
    if (found == ids.end()) unknown.refuse("is not in the vocabulary");
    bytes.unknown = found->second;
  }
  bytes.fuse_unknown = model["fuse_unk"].boolean_or(false);
  return bytes;
}

void check_model(const JsonRef& model) {
  model.only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
              "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (const JsonRef type = model["type"]; !type.is_null() && type.string() != "BPE")
    type.refuse(fmt::format("{} is not supported (BPE is)", type.string()));
  if (const JsonRef dropout = model["dropout"]; !dropout.is_null() && dropout.value() != 0)
    dropout.refuse("dropout makes the ids random; only null is supported");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const JsonRef affix = model[key]; !affix.is_null() && !affix.string().empty())
      affix.refuse("is not supported, only null");
  if (const JsonRef fallback = model["byte_fallback"]; fallback.boolean_or(false))
    fallback.refuse("byte_fallback (SentencePiece style) is not supported yet");
}

std::vector<AddedToken> read_added_tokens(const JsonRef& json, Vocabulary& vocabulary) {
  std::vector<AddedToken> added;
  if (json.is_null()) return added;
  for (std::size_t i = 0; i < json.array_size(); ++i) {
    const JsonRef entry = json.element(i);
    entry.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    AddedToken token{entry["id"].id(),
                     entry["content"].string(),
                     entry["single_word"].boolean_or(false),
                     entry["lstrip"].boolean_or(false),
                     entry["rstrip"].boolean_or(false),
                     entry["normalized"].boolean_or(false),
                     entry["special"].boolean_or(false)};
    if (token.content.empty()) continue;
    const auto [known, fresh] = vocabulary.ids.emplace(token.content, token.id);
    const auto& tokens = vocabulary.tokens;
    const bool taken = static_cast<std::size_t>(token.id) < tokens.size() && tokens[token.id].used;
    if (!fresh && known->second != token.id)
      entry.refuse(fmt::format("{:?} has id {} here and {} in the vocabulary", token.content, token.id, known->second));
    if (fresh && taken) entry.refuse(fmt::format("id {} belongs to another token already", token.id));
    vocabulary.put(token.id, token.content, token.special, entry);
    added.push_back(std::move(token));
  }
  return added;
}

// TemplateProcessing: the tokens before and after the text (its "single" form; "pair" is for two texts).
void read_template(const JsonRef& json, TokenizerModel& model) {
  json.only({"type", "single", "pair", "special_tokens"});
  const JsonRef parts = json["single"];
  bool after_text = false;
  for (std::size_t i = 0; i < parts.array_size(); ++i) {
    const JsonRef part = parts.element(i);
    part.only({"SpecialToken", "Sequence"});
    if (const JsonRef sequence = part["Sequence"]; !sequence.is_null()) {
      if (after_text || sequence["id"].string() != "A") part.refuse("must hold the text (A) once");
      after_text = true;
      continue;
    }
    const JsonRef token = json["special_tokens"][part["SpecialToken"]["id"].string()];
    const JsonRef ids = token["ids"];
    for (std::size_t k = 0; k < ids.array_size(); ++k)
      (after_text ? model.suffix : model.prefix).push_back(ids.element(k).id());
  }
  if (!after_text) parts.refuse("leaves the text out");
}

void read_post_processor(const JsonRef& json, TokenizerModel& model) {
  if (json.is_null()) return;
  const std::string type = json["type"].string();
  if (type == "ByteLevel") return;  // it changes offsets only
  if (type == "TemplateProcessing") {
    if (!model.prefix.empty() || !model.suffix.empty()) json.refuse("a second TemplateProcessing is not supported");
    return read_template(json, model);
  }
  if (type != "Sequence")
    json.refuse(fmt::format("post-processor {} is not supported (TemplateProcessing and ByteLevel are)", type));
  json.only({"type", "processors"});
  const JsonRef list = json["processors"];
  for (std::size_t i = 0; i < list.array_size(); ++i) read_post_processor(list.element(i), model);
}

}  // namespace

TokenizerModel load_tokenizer_model(const std::filesystem::path& file) {
  std::error_code unknown;
  if (!std::filesystem::exists(file, unknown))
    throw UserError(Exit::bad_model, "{}: no such file; download the model's tokenizer.json there", file.string());
  return parse_tokenizer_model(read_json_file(file), file.string());
}

TokenizerModel parse_tokenizer_model(const nlohmann::json& document, const std::string& where) {
  const JsonRef root(document, where);
  root.only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
             "decoder", "model"});
  for (const char* key : {"truncation", "padding"})
    if (!root[key].is_null()) root[key].refuse("must be null: texts are neither cut nor padded here");
  if (const JsonRef normalizer = root["normalizer"]; !normalizer.is_null())
    normalizer.refuse(fmt::format("normalizer {} is not supported yet, only null", normalizer["type"].string()));
  if (const JsonRef decoder = root["decoder"]; decoder.is_null() || decoder["type"].string() != "ByteLevel")
    decoder.refuse("only the ByteLevel decoder is supported");

  const JsonRef json = root["model"];
  check_model(json);
  Vocabulary vocabulary = read_vocabulary(json["vocab"]);
  const std::vector<BpeMerge> merges = read_merges(json["merges"], vocabulary.ids);
  const Bpe::Bytes bytes = read_bytes(json, vocabulary.ids);
  TextMap<std::int32_t> whole_ids;
  if (json["ignore_merges"].boolean_or(false))
    for (const auto& [text, id] : vocabulary.ids)
      if (auto spelled = bytes_of_spelling(text)) whole_ids.emplace(std::move(*spelled), id);
  std::vector<AddedToken> added = read_added_tokens(root["added_tokens"], vocabulary);

  TokenizerModel model{.tokens = std::move(vocabulary.tokens),
                       .ids = std::move(vocabulary.ids),
                       .whole_ids = std::move(whole_ids),
                       .prefix = {},
                       .suffix = {},
                       .added = AddedTokens(std::move(added)),
                       .pre_tokenizer = PreTokenizer(root["pre_tokenizer"]),
                       .bpe = Bpe(bytes, merges)};
  read_post_processor(root["post_processor"], model);
  return model;
}

}  // namespace longhaul
