// A tokenizer.model file (protobuf), read as far as it is needed to say whether we do what it asks for.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace longhaul {

struct SentencePieceFile {
  enum class Kind { normal = 1, unknown, control, user_defined, unused, byte };  // as the file numbers them
  struct Piece {
    std::string text;  // as the file has it, with U+2581 for a space
    Kind kind;
  };
  std::vector<Piece> pieces;  // by id
  bool adds_space = true;     // before every text
  bool collapses_spaces = true;
  bool byte_fallback = false;
  /// For the library: the file without its rules for spaces, which are ours, and without what is not used. User-defined
  /// pieces are looked for before the library sees a text, so that a document cannot spell them; here they are control
  /// tokens. But for spaces, which command nothing.
  std::string model;
};

/// `where` begins messages. Throws UserError{bad_model} for what is no such file, and naming what is not supported:
/// other models than BPE, a table of normalizations, spaces as suffixes.
SentencePieceFile read_sentencepiece(std::string bytes, const std::string& where);

}  // namespace longhaul
