// Regular expressions as tokenizer.json means them (Oniguruma's dialect), done by PCRE2 with its JIT compiler.
#pragma once
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace longhaul {

/// A compiled pattern; may be shared between threads.
class Regex {
 public:
  enum class Kind { pattern, literal };
  /// Throws UserError{bad_model}, beginning with `where`, for a pattern that is wrong or that PCRE2 would read
  /// otherwise than Oniguruma does.
  Regex(Kind kind, const std::string& pattern, const std::string& where);
  Regex(Regex&&) noexcept;
  ~Regex();

  struct Match {
    std::size_t begin, end;
  };
  /// The state of a search; one per thread and Regex, reused from search to search. Does not outlive its Regex.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex);
    Matcher(Matcher&&) noexcept;
    ~Matcher();
    /// The first match at or after `from` in valid UTF-8.
    std::optional<Match> find(std::string_view text, std::size_t from);
    /// Does the pattern match somewhere in `text`?
    bool in(std::string_view text) { return find(text, 0).has_value(); }

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

/// Oniguruma's pattern in PCRE2's spelling: the two differ in what \s and \w hold. Throws UserError{bad_model} for
/// constructs that they read differently and that we do not rewrite.
std::string pcre2_spelling(std::string_view oniguruma, const std::string& where);

}  // namespace longhaul
