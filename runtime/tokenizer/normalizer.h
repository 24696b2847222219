// What a tokenizer does to a text before anything is looked up in it.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/regex.h"
#include "runtime/tokenizer/tokenizer_json.h"

namespace longhaul {

class Normalizer {
 public:
  Normalizer() = default;  // changes nothing
  /// From the normalizer of tokenizer.json: NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip and sequences of them. Throws
  /// UserError{bad_model} naming another.
  explicit Normalizer(const JsonRef& json);

  bool empty() const { return steps_.empty(); }
  /// `text` is valid UTF-8 but for guard bytes (Tokenizer::kSpecialGuard), which stay where they are.
  std::string apply(std::string_view text) const;

 private:
  struct Step {
    enum Kind { unicode, prepend, replace, replace_pattern, strip };
    Kind kind;
    bool compatible = false, compose = false;  // unicode
    std::string text, with;                    // prepend: text; replace: text by `with`
    std::optional<Regex> pattern;
    bool left = false, right = false;  // strip
  };
  void add(const JsonRef& json);

  std::vector<Step> steps_;
};

/// A Unicode normalization form of valid UTF-8; takes n log n time whatever the text.
std::string unicode_normal_form(std::string_view text, bool compatible, bool compose);

}  // namespace longhaul
