// The texts that documents are cut from: whole, as tokens, and as paragraphs of prose.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "apps/eval/random.h"
#include "runtime/tokenizer/tokenizer.h"

namespace longhaul::eval {

struct Paragraph {
  std::string text;
  std::int64_t tokens;  // with the blank line that follows it
};

class Library {
 public:
  struct Text {
    std::string name;  // of the file
    std::string text;
    std::string title, author;  // where the text begins TITLE, newline, "by AUTHOR"
    std::vector<std::int32_t> tokens;
    std::vector<Paragraph> prose;  // without front and back matter; see prose_of
    std::int64_t prose_tokens = 0;
  };

  /// Files, and the *.txt files of folders, in the order given and sorted within a folder. Throws UserError{io}.
  Library(const std::vector<std::string>& paths, const Tokenizer& tokenizer);

  bool empty() const { return texts_.empty(); }
  std::int64_t size() const { return static_cast<std::int64_t>(texts_.size()); }
  /// With its tokens and its prose, which are made when first asked for.
  const Text& tokenized(std::int64_t index) const;
  const Text& with_prose(std::int64_t index) const;
  /// Of names and contents: two libraries of one fingerprint give the same documents.
  std::uint64_t fingerprint() const;

  /// Consecutive paragraphs of about `tokens` tokens (never more), from a random place of text `index`; where that is
  /// too short, from its beginning and on through other texts. The last one is cut at a word. Throws UserError{usage}
  /// where all texts together are too short.
  std::vector<std::string> excerpt(std::int64_t index, std::int64_t tokens, Random& random) const;
  /// A random text that holds `tokens` of prose, or where none does any; with `title` only those with title and author.
  std::int64_t pick(std::int64_t tokens, bool title, Random& random) const;

 private:
  const Tokenizer& tokenizer_;
  mutable std::vector<Text> texts_;
};

/// The paragraphs of a text that are prose: not the first tenth and the last twentieth, which are front and back
/// matter; no verse, pictures, rulers or headings; nothing that looks like a note, section or needle of ours.
std::vector<std::string> prose_of(const std::string& text);

/// The longest part of `text` that ends with a word and has at most `tokens` tokens; may be empty.
std::string cut_to(const Tokenizer& tokenizer, const std::string& text, std::int64_t tokens);

}  // namespace longhaul::eval
