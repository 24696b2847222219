#include <cctype>

#include "kernels/base/error.h"
#include "runtime/jinja_syntax.h"

namespace longhaul::jinja {
namespace {

constexpr std::string_view kBlank = " \t\n\r\f\v";

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name) : name_(name) {
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
  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(Exit::bad_model, "{}:{}: {}", name_, line_, what);
  }

  void text_before(std::size_t tag) {
    std::string text = source_.substr(at_, tag == std::string::npos ? tag : tag - at_);
    const std::size_t whole = text.size();
    if (tag != std::string::npos) {
      const char kind = source_[tag + 1], mark = peek(tag + 2);
      if (mark == '-') {
        text.erase(text.find_last_not_of(kBlank) + 1);
      } else if (mark != '+' && kind != '{') {  // lstrip_blocks
        const std::size_t line = text.rfind('\n') + 1;
        if ((line > 0 || line_starting_) && text.find_first_not_of(kBlank, line) == std::string::npos) text.erase(line);
      }
    }
    if (!text.empty()) put(TokenKind::text, std::move(text));
    skip(whole);
  }

  // After a tag: '-' takes all white space, and a block or comment takes one newline (trim_blocks).
  void close(char mark, bool trims) {
    const std::size_t before = at_;
    if (mark == '-') {
      while (at_ < source_.size() && kBlank.find(source_[at_]) != std::string_view::npos) skip(1);
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
    for (;;) {
      while (at_ < source_.size() && kBlank.find(source_[at_]) != std::string_view::npos) skip(1);
      if (at_ >= source_.size()) fail(fmt::format("a tag that does not end with {}", end));
      const char c = source_[at_];
      const bool marked = (c == '-' || c == '+') && source_.compare(at_ + 1, 2, end) == 0;
      if (marked || source_.compare(at_, 2, end) == 0) {
        put(block ? TokenKind::block_end : TokenKind::print_end, "");
        skip(marked ? 3 : 2);
        return close(marked ? c : '\0', block);
      }
      word(c);
    }
  }

  void word(char c) {
    const auto in_name = [&](std::size_t at) {
      return std::isalnum(static_cast<unsigned char>(peek(at))) || peek(at) == '_';
    };
    if (c == '\'' || c == '"') return string(c);
    std::size_t end = at_;
    while (in_name(end)) ++end;
    if (end > at_) {
      const std::string text = source_.substr(at_, end - at_);
      const bool number = std::isdigit(static_cast<unsigned char>(c));
      if (number && (text.find_first_not_of("0123456789") != std::string::npos || text.size() > 18 ||
                     (peek(end) == '.' && std::isdigit(static_cast<unsigned char>(peek(end + 1))))))
        fail(fmt::format("the number {}... is not supported (whole numbers are)", text));
      put(number ? TokenKind::integer : TokenKind::name, text);
      return skip(end - at_);
    }
    for (const std::string_view symbol : {"==", "!=", "<=", ">=", "//", "**"})
      if (source_.compare(at_, 2, symbol) == 0) return put(TokenKind::symbol, std::string(symbol)), skip(2);
    put(TokenKind::symbol, std::string(1, c));
    skip(1);
  }

  void string(char quote) {
    std::string text;
    std::size_t at = at_ + 1;
    for (; at < source_.size() && source_[at] != quote; ++at) {
      if (source_[at] != '\\') {
        text += source_[at];
        continue;
      }
      constexpr std::string_view kEscapes = "nrt\\'\"", kMeanings = "\n\r\t\\'\"";
      const std::size_t which = kEscapes.find(peek(++at));
      if (which == std::string_view::npos) fail(fmt::format("the string escape \\{} is not supported", peek(at)));
      text += kMeanings[which];
    }
    if (at >= source_.size()) fail("a string that does not end");
    put(TokenKind::string, std::move(text));
    skip(at + 1 - at_);
  }

  const std::string& name_;
  std::string source_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the text to come stands at the beginning of a line
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const std::string& name) { return Lexer(source, name).run(); }

}  // namespace longhaul::jinja
