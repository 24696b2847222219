// Python's operations on strings, for UTF-8. A guard byte (Tokenizer::kSpecialGuard) inside a text is no character: all
// of these see through it, and it stays where it is.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul::jinja {

struct TextRange {
  std::size_t begin, end;  // bytes
};

/// Characters.
std::int64_t text_length(std::string_view text);
/// Without guard bytes.
std::string unguarded(std::string_view text);
bool text_equal(std::string_view a, std::string_view b);
int text_compare(std::string_view a, std::string_view b);  // by code points
/// Looks for `part` in a text, again and again, in one direction; a search takes time linear in what it walks through.
/// `text` must outlive it.
class TextFinder {
 public:
  enum class Direction : std::uint8_t { forward, backward };
  TextFinder(std::string_view text, std::string_view part, Direction direction = Direction::forward);
  TextFinder(const TextFinder&) = delete;
  /// Forward: the first place at or after byte `at`. Backward: the last place that ends at or before it.
  std::optional<TextRange> next(std::size_t at) const;

 private:
  std::size_t bare(std::size_t at) const;
  std::size_t in_text(std::size_t at) const;
  std::string part_;                 // without guards; backward: last byte first
  std::string own_;                  // the text in the same way, where it is not so already
  std::string_view bare_;            // the text in that way
  std::vector<std::size_t> guards_;  // places in the text
  Direction direction_;
};
std::optional<TextRange> find_text(std::string_view text, std::string_view part);
std::optional<TextRange> find_last_text(std::string_view text, std::string_view part);
/// Where a text that begins, or ends, with `part` goes on; none where it does not.
std::optional<std::size_t> after_prefix(std::string_view text, std::string_view part);
std::optional<std::size_t> before_suffix(std::string_view text, std::string_view part);

bool is_python_space(char32_t code);
/// str.strip and its kin; none: white space.
std::string_view strip_text(std::string_view text, std::optional<std::string_view> characters, bool left, bool right);
/// str.split and str.rsplit; `separator` none: runs of white space. most < 0: all.
std::vector<std::string_view> split_text(std::string_view text, std::optional<std::string_view> separator,
                                         std::int64_t most, bool from_right);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);
std::string replace_text(std::string_view text, std::string_view from, std::string_view to, std::int64_t most);

/// The text's characters, each with the guard bytes after it.
std::vector<std::string_view> characters_of(std::string_view text);

enum class Case { upper, lower, swapped, capitalized, title };
/// Throws std::string (the character) for what needs more than a character's simple mapping.
std::string with_case(std::string_view text, Case which);

enum class TextClass { upper, lower, digit, alpha, alphanumeric, space, ascii, title };
bool is_text(std::string_view text, TextClass which);

}  // namespace longhaul::jinja
