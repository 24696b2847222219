// tiktoken's files: a line for each token, its bytes in base64 and its rank, which is its id.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace longhaul {

/// A text that begins as such a file does.
bool is_tiktoken(std::string_view text);
/// The vocabulary and merges of tokenizer.json that give what tiktoken gives: {"vocab": ..., "merges": ...}. Throws
/// UserError{bad_model}, "WHERE:LINE: ...".
nlohmann::json tiktoken_model(std::string_view text, const std::string& where);

}  // namespace longhaul
