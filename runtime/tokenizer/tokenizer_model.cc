#include "runtime/tokenizer/tokenizer_model.h"

#include <algorithm>
#include <unordered_set>

#include "kernels/base/error.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
namespace {

struct Vocabulary {
  std::vector<TokenizerModel::Token> tokens;
  std::unordered_map<std::int32_t, std::string> at_first;
  TextMap<std::int32_t> ids;
  const TokenDecoder& decoder;

  void put(std::int32_t id, std::string_view text, bool special) {
    if (static_cast<std::size_t>(id) >= tokens.size()) tokens.resize(id + 1);
    tokens[id] = {decoder.text_of(text, false), true, special, decoder.byte_of(text)};
    if (std::string first = decoder.text_of(text, true); first != tokens[id].text) at_first[id] = std::move(first);
  }
};

Vocabulary read_vocabulary(const JsonRef& json, const TokenDecoder& decoder) {
  Vocabulary out{.decoder = decoder};
  const std::size_t size = json.object().size();
  if (size == 0) json.refuse("is empty");
  out.ids.reserve(size);
  for (const auto& [text, value] : json.object().items()) {
    const auto refuse = [&, &text = text](const std::string& what) {
      JsonRef(value, fmt::format("{}[{:?}]", json.where(), text)).refuse(what);
    };
    if (!value.is_number_unsigned()) refuse("must be a token id");
    // Vocabularies have few holes; an id far above is a mistake, and its table would be large.
    const std::uint64_t id = value.get<std::uint64_t>(), most = 2 * size + (1 << 16);
    if (id > most) refuse(fmt::format("token id {} is out of range for a vocabulary of {} tokens", id, size));
    if (id < out.tokens.size() && out.tokens[id].used)
      refuse(fmt::format("id {} belongs to another token already", id));
    out.put(static_cast<std::int32_t>(id), text, false);
    out.ids.emplace(text, static_cast<std::int32_t>(id));
  }
  return out;
}

struct Merges {
  std::vector<BpeMerge> merges;
  Joints joints;  // see Bpe
};

Merges read_merges(const JsonRef& json, const TextMap<std::int32_t>& ids) {
  constexpr std::size_t kMost = 1 << 21;
  Merges out;
  if (json.array_size() > kMost)
    json.refuse(fmt::format("has {} merges; at most {} are supported", json.array_size(), kMost));
  out.merges.reserve(json.array_size());
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
    out.merges.push_back({left_id, right_id, id(left + right)});
    if (left.empty() || right.empty()) refuse("joins nothing");
    out.joints.add(utf8_code_point(character_before(left, left.size())), utf8_code_point(character_at(right, 0)));
  }
  return out;
}

Bpe::Alphabet read_alphabet(const JsonRef& model, const TextMap<std::int32_t>& ids, bool bytes) {
  Bpe::Alphabet alphabet{.characters = !bytes};
  const auto id = [&](std::string_view text) {
    const auto found = ids.find(text);
    return found == ids.end() ? -1 : found->second;
  };
  if (bytes) {
    for (int b = 0; b < 256; ++b) alphabet.ids.push_back(id(spelling_of_byte(static_cast<unsigned char>(b))));
  } else {
    for (const auto& [text, number] : ids) {
      if (text.empty() || character_at(text, 0).size() != text.size()) continue;
      const char32_t code = utf8_code_point(text);
      if (code >= alphabet.ids.size()) alphabet.ids.resize(code + 1, -1);
      alphabet.ids[code] = number;
    }
  }
  if (const JsonRef fallback = model["byte_fallback"]; fallback.boolean_or(false)) {
    if (bytes && std::find(alphabet.ids.begin(), alphabet.ids.end(), -1) != alphabet.ids.end())
      fallback.refuse("with ByteLevel and a vocabulary that lacks some bytes is not supported");
    alphabet.bytes.emplace();
    for (int b = 0; b < 256; ++b) (*alphabet.bytes)[b] = id(fmt::format("<0x{:02X}>", b));
  }
  if (const JsonRef unknown = model["unk_token"]; !unknown.is_null()) {
    alphabet.unknown = id(unknown.string());
    if (alphabet.unknown < 0) unknown.refuse("is not in the vocabulary");
  }
  alphabet.fuse_unknown = model["fuse_unk"].boolean_or(false);
  return alphabet;
}

// Characters alone tell where merges can reach, unless tokens that stand for something else take part in them.
bool merges_are_of_characters(const std::vector<BpeMerge>& merges, const Bpe::Alphabet& alphabet) {
  std::unordered_set<std::int32_t> others{alphabet.unknown};
  if (alphabet.bytes) others.insert(alphabet.bytes->begin(), alphabet.bytes->end());
  return std::none_of(merges.begin(), merges.end(), [&](const BpeMerge& merge) {
    return others.contains(merge.left) || others.contains(merge.right);
  });
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
}

std::vector<AddedToken> read_added_tokens(const JsonRef& json, const Normalizer& normalizer, Vocabulary& vocabulary) {
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
    if (static_cast<std::size_t>(token.id) > 2 * tokens.size() + (1 << 16))
      entry.refuse(fmt::format("token id {} is out of range for a vocabulary of {} tokens", token.id, tokens.size()));
    vocabulary.put(token.id, token.normalized ? normalizer.apply(token.content) : token.content, token.special);
    added.push_back(std::move(token));
  }
  return added;
}

}  // namespace

TokenizerModel tokenizer_model(const nlohmann::json& document, const std::string& where) {
  const JsonRef root(document, where);
  root.only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
             "decoder", "model"});
  for (const char* key : {"truncation", "padding"})
    if (!root[key].is_null()) root[key].refuse("must be null: texts are neither cut nor padded here");

  const JsonRef json = root["model"];
  check_model(json);
  PreTokenizer pre_tokenizer(root["pre_tokenizer"]);
  TokenDecoder decoder(root["decoder"]);
  const bool bytes = pre_tokenizer.byte_level();
  if (bytes != decoder.byte_level())
    root["decoder"].refuse(fmt::format("contradicts the pre-tokenizer: {} ByteLevel and {}",
                                       bytes ? "that is" : "this is", bytes ? "this is not" : "that is not"));
  Vocabulary vocabulary = read_vocabulary(json["vocab"], decoder);
  Merges merges = read_merges(json["merges"], vocabulary.ids);
  Bpe::Alphabet alphabet = read_alphabet(json, vocabulary.ids, bytes);
  TextMap<std::int32_t> whole_ids;
  if (json["ignore_merges"].boolean_or(false))
    for (const auto& [text, id] : vocabulary.ids)
      if (auto spelled = bytes ? bytes_of_spelling(text) : std::optional(text))
        whole_ids.emplace(std::move(*spelled), id);
  std::optional<Joints> joints;
  if (!bytes && whole_ids.empty() && merges_are_of_characters(merges.merges, alphabet))
    joints = std::move(merges.joints);
  Normalizer normalizer(root["normalizer"]);
  std::vector<AddedToken> added = read_added_tokens(root["added_tokens"], normalizer, vocabulary);
  AddedTokens added_tokens(std::move(added), normalizer);
  return {.tokens = std::move(vocabulary.tokens),
          .at_first = std::move(vocabulary.at_first),
          .ids = std::move(vocabulary.ids),
          .whole_ids = std::move(whole_ids),
          .around = read_post_processor(root["post_processor"]),
          .normalizer = std::move(normalizer),
          .added = std::move(added_tokens),
          .pre_tokenizer = std::move(pre_tokenizer),
          .decoder = std::move(decoder),
          .bpe = Bpe(std::move(alphabet), merges.merges, std::move(joints)),
          .pieces = nullptr};
}

}  // namespace longhaul
