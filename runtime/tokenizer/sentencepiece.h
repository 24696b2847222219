// tokenizer.model: what the SentencePiece library makes of a text.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

class SentencePiece {
 public:
  /// Throws UserError{bad_model} when the library cannot read the file.
  explicit SentencePiece(const std::filesystem::path& file);
  ~SentencePiece();

  enum class Kind { normal = 1, unknown, control, user_defined, unused, byte };  // as the file numbers them
  struct Piece {
    std::string text;  // as the file has it, with U+2581 for a space
    Kind kind;
  };
  const std::vector<Piece>& pieces() const;  // by id
  std::int32_t begin_id() const;             // BOS; -1: none
  std::int32_t end_id() const;               // EOS; -1: none
  /// The library puts a space before every text.
  bool adds_space() const;
  /// Appends the ids of `text`, in which nothing is read as a control token.
  void encode(std::string_view text, std::vector<std::int32_t>& out) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longhaul
