// Parts of LongBench's protocol that stand alone.
#pragma once
#include <cstdint>
#include <string>

#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul::eval {

/// A published prompt with its {context} and {input} filled in; what they hold is not searched again.
std::string fill_prompt(const std::string& pattern, const std::string& context, const std::string& question);

/// Text of more than `tokens` tokens: its first and last tokens / 2, as published.
std::string cut_middle(const Tokenizer& tokenizer, const std::string& text, std::int64_t tokens);

}  // namespace longhaul::eval
