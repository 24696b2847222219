// What to do with a document that is longer than the context: cut it, or split it into parts that fit.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace longhaul {

/// map_reduce: the parts are summarized, then the parts' summaries, until there is one prompt.
enum class Overflow { error, truncate_middle, truncate_left, map_reduce };
/// "truncate-middle".
const char* name_of(Overflow how);

/// The tokens of the prompt that asks about a text. More text, more tokens, but for a few.
using PromptTokens = std::function<std::int64_t(const std::string& text)>;

/// About as much of `text` as fits `limit` tokens, and never more: its beginning and end around kCutMark, or its end
/// behind kCutMark. Characters stay whole, and words where there are blanks. Empty where nothing fits.
std::string cut_to_fit(const std::string& text, Overflow how, std::int64_t limit, const PromptTokens& tokens);
inline constexpr const char* kCutMark = "[...]";

/// `text` in few parts of about equal length that each fit `limit` tokens; together they are the text, but for blanks
/// where it was split. Empty where it cannot be split so.
std::vector<std::string> split_to_fit(const std::string& text, std::int64_t limit, const PromptTokens& tokens);

}  // namespace longhaul
