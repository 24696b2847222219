// Prompts cut in two: what a document becomes, prefilled once, and what each question adds.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/checkpoint/model_files.h"

namespace longhaul::eval {

/// What the chat template puts around a user's message, and the token that ends an answer (none where the template
/// has none that ends answers).
struct ChatFrame {
  std::string before, after;
  std::vector<std::int32_t> end;
};
ChatFrame chat_frame(const ModelFiles& model);
/// No template: the text as it is, with what the tokenizer itself puts before a text (often BOS).
ChatFrame plain_frame();

struct SplitPrompt {
  std::vector<std::int32_t> prompt;             // of the document
  std::vector<std::vector<std::int32_t>> asks;  // of each question, none empty
};
/// prompt + asks[i] are the tokens of the frame around `document` + questions[i] tokenized as one text. The cut is at
/// the document's end, or a few tokens before where a token runs across it.
SplitPrompt split_prompt(const ModelFiles& model, const ChatFrame& frame, const std::string& document,
                         const std::vector<std::string>& questions);

/// The tokens of an answer's text and of its end.
std::vector<std::int32_t> answer_tokens(const ModelFiles& model, const ChatFrame& frame, const std::string& text);

std::int64_t count_tokens(const Tokenizer& tokenizer, std::string_view text);

}  // namespace longhaul::eval
