// Which files of a model's folder hold its tokenizer, and what they say: tokenizer.json, or older forms of it.
#pragma once
#include <filesystem>

#include "runtime/tokenizer/tokenizer_model.h"

namespace longhaul {

/// From the first of these that DIR has: tokenizer.json; tokenizer.model (SentencePiece, or tiktoken's ranks);
/// NAME.tiktoken; vocab.json with merges.txt. The others are read with what tokenizer_config.json says of their kind,
/// as transformers converts them. Throws UserError{bad_model}.
TokenizerModel load_tokenizer_model(const std::filesystem::path& dir);

}  // namespace longhaul
