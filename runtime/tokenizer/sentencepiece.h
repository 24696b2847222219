// tokenizer.model: what the SentencePiece library makes of a text. The library gets it word by word: it takes a
// microsecond a character, and words repeat.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/joints.h"
#include "runtime/tokenizer/sentencepiece_file.h"

namespace longhaul {

class SentencePiece {
 public:
  enum class Prefix : std::uint8_t {
    never,
    first,  // a space before the beginning of a text, unless one is there
    always  // a space before each stretch between added tokens, as SentencePiece does
  };
  /// Throws UserError{bad_model} when the library cannot read the file. `where` begins messages.
  SentencePiece(SentencePieceFile file, const std::string& where, Prefix prefix);
  ~SentencePiece();

  std::int32_t begin_id() const;  // BOS; -1: none
  std::int32_t end_id() const;    // EOS; -1: none
  /// What a run of unknown characters gives one of; -1: they give bytes.
  std::int32_t unknown_id() const { return unknown_; }

  /// A stretch of text as pieces spell it. `first`: nothing stands before it.
  std::string spell(std::string_view text, bool first) const;
  /// Cuts a spelled text where no piece can reach across: the parts encode to what the whole does, but that what is
  /// unknown on both sides of a cut is one run.
  void cut(std::string_view spelled, const std::function<void(std::string_view)>& part) const;
  /// Appends the ids of a spelled text, in which nothing is read as a control token.
  void encode(std::string_view spelled, std::vector<std::int32_t>& out) const;

 private:
  void check_run_of_unknown(std::string_view spelled) const;
  struct Library;
  std::unique_ptr<Library> library_;
  bool collapses_spaces_, cuts_;
  Prefix prefix_;
  std::int32_t unknown_ = -1;
  Joints joints_;
  std::vector<bool> known_;  // by code point: has a piece of its own
};

}  // namespace longhaul
