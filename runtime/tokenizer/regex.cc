#include "runtime/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cctype>
#include <cstdint>

#include "kernels/base/error.h"
#include "runtime/checkpoint/json_file.h"

namespace longhaul {
namespace {

constexpr std::size_t kJitStack = 64 << 20;  // bytes of address space; touched only by patterns that nest
// Of one search. A document may be one run of ten million letters, which patterns that cut text walk through a few
// times; one that goes back and forth in it is stopped.
constexpr std::uint64_t kStepsOfASearch = 1 << 20, kStepsOfAByte = 16;
constexpr std::uint32_t kMostHeap = 1 << 20;  // KiB

std::string pcre2_error(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

std::string pcre2_spelling(std::string_view pattern, const std::string& where) {
  constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
  const auto refuse = [&](std::string_view what) {
    throw UserError(Exit::bad_model, "{}: regular expressions with {} are not supported", where, what);
  };
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i], next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (c == '\\') {
      ++i;
      if (next == 's') out += "\\p{White_Space}";  // PCRE2's \s also holds U+180E
      else if (next == 'S') out += "\\P{White_Space}";
      else if (next == 'w') out += in_class ? std::string(kWord) : fmt::format("[{}]", kWord);
      else if (next == 'W' && !in_class) out += fmt::format("[^{}]", kWord);
      else if (std::isalnum(static_cast<unsigned char>(next)) &&
               std::string_view("pPdDrntx").find(next) == std::string_view::npos)
        refuse(fmt::format("\\{}", next));
      else out += {c, next};
      if (i + 1 < pattern.size() && pattern[i + 1] == '{' && std::isalpha(static_cast<unsigned char>(next)))
        while (i + 1 < pattern.size() && out.back() != '}') out += pattern[++i];  // the braces of \p{L}
      continue;
    }
    if (in_class && c == '[') refuse("a class inside a class");
    if (in_class && c == '&' && next == '&') refuse("&& in a class");
    if (!in_class && c == '}' && next == '+') refuse("{n,m}+");  // possessive there, a plain repeat in Oniguruma
    if (!in_class && c == '[') {
      in_class = true;
      out += c;
      if (next == '^') out += next, ++i;
      continue;
    }
    if (in_class && c == ']') in_class = false;
    out += c;
  }
  return out;
}

struct Regex::Code {
  std::string name;  // in messages
  pcre2_code* code = nullptr;
  bool jit = false;
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(Kind kind, const std::string& pattern, const std::string& where) : code_(std::make_unique<Code>()) {
  const std::string text = kind == Kind::literal ? pattern : pcre2_spelling(pattern, where);
  // Oniguruma's ^ and $ are those of lines.
  const std::uint32_t options = PCRE2_UTF | (kind == Kind::literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE);
  int error = 0;
  PCRE2_SIZE at = 0;
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), options, &error, &at, nullptr);
  if (!code_->code)
    throw UserError(Exit::bad_model, "{}: regular expression {:?}: {} (at {})", where, pattern, pcre2_error(error), at);
  code_->name = fmt::format("{}: regular expression {}", where, quoted(pattern));
  code_->jit = pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE) == 0;  // else the interpreter, slower
}
Regex::Regex(Regex&&) noexcept = default;
Regex::~Regex() = default;

struct Regex::Matcher::State {
  explicit State(const Code& code)
      : code(code),
        data(pcre2_match_data_create_from_pattern(code.code, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(code.jit ? pcre2_jit_stack_create(32 << 10, kJitStack, nullptr) : nullptr) {
    pcre2_set_depth_limit(context, UINT32_MAX);  // what nests takes steps and heap, too
    pcre2_set_heap_limit(context, kMostHeap);
    if (stack) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~State() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  const Code& code;
  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
};

Regex::Matcher::Matcher(const Regex& regex) : state_(std::make_unique<State>(*regex.code_)) {}
Regex::Matcher::Matcher(Matcher&&) noexcept = default;
Regex::Matcher::~Matcher() = default;

std::optional<Regex::Match> Regex::Matcher::find(std::string_view text, std::size_t from) {
  State& s = *state_;
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  pcre2_set_match_limit(s.context, static_cast<std::uint32_t>(std::min<std::uint64_t>(
                                       kStepsOfASearch + kStepsOfAByte * (text.size() - from), UINT32_MAX)));
  // Without NO_UTF_CHECK each search would check the whole text again.
  int rc = PCRE2_ERROR_JIT_STACKLIMIT;
  if (s.code.jit) rc = pcre2_jit_match(s.code.code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, s.data, s.context);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter keeps its stack on the heap
    rc = pcre2_match(s.code.code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s.data, s.context);
  if (rc == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (rc < 0) throw UserError(Exit::usage, "{} fails on this text: {}", s.code.name, pcre2_error(rc));
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(s.data);
  return Match{range[0], range[1]};
}

}  // namespace longhaul
