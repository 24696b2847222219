// What tokenizer.json says, checked and ready to use: the parts behind Tokenizer.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/added_tokens.h"
#include "runtime/bpe.h"
#include "runtime/pretokenizer.h"
#include "runtime/tokenizer_json.h"

namespace longhaul {

struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <class Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

struct TokenizerModel {
  struct Token {
    std::string bytes;  // what it decodes to
    bool used = false, special = false;
  };
  std::vector<Token> tokens;        // by id; ids may have holes
  TextMap<std::int32_t> ids;        // as spelled in the file, added tokens as they are
  TextMap<std::int32_t> whole_ids;  // bytes → id, when ignore_merges takes whole pretokens from the vocabulary
  std::vector<std::int32_t> prefix, suffix;  // what the post-processor puts around one text
  AddedTokens added;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
};

/// Throws UserError{bad_model} naming the file and the part that is wrong, or not supported.
TokenizerModel load_tokenizer_model(const std::filesystem::path& file);
/// The same of a document; `where` is for messages.
TokenizerModel parse_tokenizer_model(const nlohmann::json& document, const std::string& where);

}  // namespace longhaul
