// What a model's tokenizer files say, checked and ready to use: the parts behind Tokenizer.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/tokenizer/added_tokens.h"
#include "runtime/tokenizer/bpe.h"
#include "runtime/tokenizer/normalizer.h"
#include "runtime/tokenizer/post_processor.h"
#include "runtime/tokenizer/pretokenizer.h"
#include "runtime/tokenizer/sentencepiece.h"
#include "runtime/tokenizer/token_decoder.h"

namespace longhaul {

struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <class Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

struct TokenizerModel {
  struct Token {
    std::string text;  // what it decodes to, bytes
    bool used = false, special = false;
    std::optional<unsigned char> byte;  // of a byte fallback
  };
  std::vector<Token> tokens;                               // by id; ids may have holes
  std::unordered_map<std::int32_t, std::string> at_first;  // the text of tokens that decode otherwise at the beginning
  TextMap<std::int32_t> ids;                               // as spelled in the file, added tokens as they are
  TextMap<std::int32_t> whole_ids;  // pretoken → id, when ignore_merges takes whole pretokens from the vocabulary
  TokensAround around;
  Normalizer normalizer;
  AddedTokens added;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;
  Bpe bpe;
  std::unique_ptr<SentencePiece> pieces;  // null, or what takes the place of pre-tokenizer and bpe
};

/// The document of a tokenizer.json as a model; `where` begins messages. Throws UserError{bad_model} naming the part
/// that is wrong, or not supported.
TokenizerModel tokenizer_model(const nlohmann::json& document, const std::string& where);

}  // namespace longhaul
