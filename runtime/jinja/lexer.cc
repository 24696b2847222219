#include <cctype>
#include <charconv>

#include "runtime/jinja/syntax.h"
#include "runtime/jinja/text.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul::jinja {
namespace {

class Lexer {
 public:
  Lexer(std::string_view source, const Where& where) : where_(where) {
    if (source.size() > kLongestSource) fail("a template of more than 4 MiB");
    if (find_invalid_utf8(source) != std::string_view::npos) fail("the template is not valid UTF-8");
    // As Jinja2: every line ends with \n, and one at the end of the template is dropped.
    for (std::size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
      source_ += source[i] == '\r' ? '\n' : source[i];
    }
    if (source_.ends_with('\n')) source_.pop_back();
  }

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      std::size_t tag = at_;
      while ((tag = source_.find('{', tag)) != std::string::npos &&
             std::string_view("{%#").find(peek(tag + 1)) == std::string_view::npos)
        ++tag;
      text_before(tag);
      if (tag == std::string::npos) break;
      const char kind = source_[tag + 1];
      if (kind == '%' && raw()) continue;
      skip(2);
      if (peek(at_) == '-' || peek(at_) == '+') skip(1);
      if (kind == '#') comment();
      else inside(kind);
    }
    put(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  char peek(std::size_t at) const { return at < source_.size() ? source_[at] : '\0'; }
  void skip(std::size_t count) {
    for (; count > 0; --count) line_ += source_[at_++] == '\n';
  }
  void put(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  [[noreturn]] void fail(const std::string& what) const { where_.fail(line_, what); }

  static bool is_blank(std::string_view text) { return strip_text(text, {}, true, false).empty(); }
  std::size_t blank_end(std::size_t at) const {
    const std::string_view rest = std::string_view(source_).substr(at);
    return at + (rest.size() - strip_text(rest, {}, true, false).size());
  }
  void skip_blank() {
    while (at_ < source_.size() && is_python_space(utf8_code_point(character_at(source_, at_))))
      skip(character_at(source_, at_).size());
  }

  // {% raw %}: what is up to {% endraw %} is text.
  bool raw() {
    std::size_t at = at_ + 2;
    if (peek(at) == '-' || peek(at) == '+') ++at;
    at = blank_end(at);
    if (source_.compare(at, 3, "raw") != 0) return false;
    at = blank_end(at + 3);
    const bool strips = peek(at) == '-';
    at += strips;
    if (source_.compare(at, 2, "%}") != 0) return false;
    skip(at + 2 - at_);
    if (strips) skip_blank();
    for (std::size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 1)) {
      std::size_t end = tag + 2;
      if (peek(end) == '-' || peek(end) == '+') ++end;
      end = blank_end(end);
      if (source_.compare(end, 6, "endraw") != 0) continue;
      end = blank_end(end + 6);
      const char mark = peek(end);
      end += mark == '-' || mark == '+';
      if (source_.compare(end, 2, "%}") != 0) continue;
      line_starting_ = false;
      text_before(tag);
      skip(end + 2 - at_);
      close(mark, true);
      return true;
    }
    fail("{% raw %} without {% endraw %}");
  }

  void text_before(std::size_t tag) {
    std::string text = source_.substr(at_, tag == std::string::npos ? tag : tag - at_);
    const std::size_t whole = text.size();
    if (tag != std::string::npos) {
      const char kind = source_[tag + 1], mark = peek(tag + 2);
      if (mark == '-') {
        text.resize(strip_text(text, {}, false, true).size());
      } else if (mark != '+' && kind != '{') {  // lstrip_blocks
        const std::size_t line = text.rfind('\n') + 1;
        if ((line > 0 || line_starting_) && is_blank(std::string_view(text).substr(line))) text.erase(line);
      }
    }
    if (!text.empty()) put(TokenKind::text, std::move(text));
    skip(whole);
  }

  // After a tag: '-' takes all white space, and a block or comment takes one newline (trim_blocks).
  void close(char mark, bool trims) {
    const std::size_t before = at_;
    if (mark == '-') {
      skip_blank();
    } else if (mark != '+' && trims && peek(at_) == '\n') {
      skip(1);
    }
    line_starting_ = at_ > before && source_[at_ - 1] == '\n';
  }

  void comment() {
    const std::size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail("a comment that does not end");
    const char mark = end > at_ ? source_[end - 1] : '\0';
    skip(end + 2 - at_);
    close(mark, true);
  }

  void inside(char kind) {
    const bool block = kind == '%';
    const std::string end = block ? "%}" : "}}";
    put(block ? TokenKind::block_begin : TokenKind::print_begin, "");
    std::string open;  // brackets; inside them }} ends no tag
    for (;;) {
      skip_blank();
      if (at_ >= source_.size()) fail(fmt::format("a tag that does not end with {}", end));
      const char c = source_[at_];
      const bool marked = (c == '-' || (c == '+' && block)) && source_.compare(at_ + 1, 2, end) == 0;
      if (open.empty() && (marked || source_.compare(at_, 2, end) == 0)) {
        put(block ? TokenKind::block_end : TokenKind::print_end, "");
        skip(marked ? 3 : 2);
        return close(marked ? c : '\0', block);
      }
      constexpr std::string_view kOpening = "([{", kClosing = ")]}";
      if (kOpening.find(c) != std::string_view::npos) open += c;
      if (const std::size_t which = kClosing.find(c); which != std::string_view::npos) {
        if (open.empty() || open.back() != kOpening[which]) fail(fmt::format("unexpected {:?}", std::string(1, c)));
        open.pop_back();
      }
      word(c);
    }
  }

  void word(char c) {
    const auto in_name = [&](std::size_t at) {
      return std::isalnum(static_cast<unsigned char>(peek(at))) || peek(at) == '_';
    };
    if (c == '\'' || c == '"') return string(c);
    if (std::isdigit(static_cast<unsigned char>(c))) return number();
    std::size_t end = at_;
    while (in_name(end)) ++end;
    if (end > at_) {
      put(TokenKind::name, source_.substr(at_, end - at_));
      return skip(end - at_);
    }
    for (const std::string_view symbol : {"==", "!=", "<=", ">=", "//", "**"})
      if (source_.compare(at_, 2, symbol) == 0) return put(TokenKind::symbol, std::string(symbol)), skip(2);
    constexpr std::string_view kSymbols = "+-/*%~[](){}<>=.:|,";
    if (kSymbols.find(c) == std::string_view::npos)
      fail(fmt::format("unexpected {:?}", std::string(character_at(source_, at_))));
    put(TokenKind::symbol, std::string(1, c));
    skip(1);
  }

  void number() {
    const auto digits = [&](std::size_t at) {  // with single underscores between
      while (std::isdigit(static_cast<unsigned char>(peek(at))) ||
             (peek(at) == '_' && std::isdigit(static_cast<unsigned char>(peek(at + 1)))))
        ++at;
      return at;
    };
    std::size_t end = digits(at_);
    bool real = false;
    if (peek(end) == '.' && std::isdigit(static_cast<unsigned char>(peek(end + 1)))) {
      end = digits(end + 1);
      real = true;
    }
    if (peek(end) == 'e' || peek(end) == 'E') {
      const std::size_t sign = end + 1 + (peek(end + 1) == '+' || peek(end + 1) == '-');
      if (std::isdigit(static_cast<unsigned char>(peek(sign)))) {
        end = digits(sign);
        real = true;
      }
    }
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    if (std::isalnum(static_cast<unsigned char>(peek(end))) || peek(end) == '_' ||
        (!real && text.size() > 1 && text[0] == '0' && text.find_first_not_of('0') != std::string::npos))
      fail(fmt::format("the number {}{} is not supported", text, peek(end)));
    put(real ? TokenKind::real : TokenKind::integer, std::move(text));
    skip(end - at_);
  }

  void string(char quote) {
    std::string text;
    std::size_t at = at_ + 1;
    while (at < source_.size() && source_[at] != quote) {
      if (source_[at] == '\\') at = escape(at + 1, text);
      else text += source_[at++];
    }
    if (at >= source_.size()) fail("a string that does not end");
    put(TokenKind::string, std::move(text));
    skip(at + 1 - at_);
  }

  // Python's escapes; returns where the string goes on.
  std::size_t escape(std::size_t at, std::string& text) {
    constexpr std::string_view kEscapes = "nrtabfv\\'\"", kMeanings = "\n\r\t\a\b\f\v\\'\"";
    const char c = peek(at);
    if (at < source_.size())
      if (const std::size_t which = kEscapes.find(c); which != std::string_view::npos) {
        text += kMeanings[which];
        return at + 1;
      }
    if (c == '\n') return at + 1;
    std::size_t end = at + 1, most = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    int base = 16;
    if (c >= '0' && c <= '7') {
      base = 8;
      most = 3;
      end = at;
    } else if (c == 'N') {
      fail("the string escape \\N is not supported");
    } else if (most == 0) {  // Python leaves it as it is
      text += '\\';
      return at;
    }
    std::uint32_t code = 0;
    const std::string digits = source_.substr(end, most);
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), code, base).ptr;
    const auto count = static_cast<std::size_t>(parsed - digits.data());
    if ((base == 16 && count != most) || count == 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
      fail(fmt::format("the string escape \\{}{} is not a character", c, base == 16 ? digits : ""));
    append_utf8(text, code);
    return end + count;
  }

  static constexpr std::size_t kLongestSource = 4 << 20;
  const Where& where_;
  std::string source_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the text to come stands at the beginning of a line
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const Where& where) { return Lexer(source, where).run(); }

}  // namespace longhaul::jinja
