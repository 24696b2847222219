// Text to token ids and back, equal to the Hugging Face tokenizers package on the tokenizers that it accepts.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

class Tokenizer {
 public:
  /// Reads DIR/tokenizer.json, or the older files of tokenizer_files.h. Throws UserError{bad_model} naming the file and
  /// the component it cannot do.
  explicit Tokenizer(const std::filesystem::path& dir);
  /// Of a document; `where` is for messages.
  Tokenizer(const nlohmann::json& document, const std::string& where);
  Tokenizer(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// `text` must be valid UTF-8 (UserError{io} otherwise), but for kSpecialGuard bytes: one inside the text of an added
  /// token keeps it from being read as one, and vanishes. with_template: what the post-processor adds (often BOS).
  std::vector<std::int32_t> encode(std::string_view text, bool with_template) const;
  /// Bytes as they are: a token may hold part of a character. A tokenizer's decoder may drop the space at the
  /// beginning.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true) const;
  /// The bytes of one token; added tokens give their text. Throws UserError{usage} for an id outside the vocabulary.
  std::string_view token_bytes(std::int32_t id) const;
  bool is_special(std::int32_t id) const;
  std::optional<std::int32_t> id_of(std::string_view token_text) const;
  std::int64_t vocab_size() const;  // 1 + the largest id

  /// `text` with guard bytes, so that no added token is found in it: what a document is before it enters a template.
  std::string guard(std::string_view text) const;
  static constexpr char kSpecialGuard = '\xff';  // in no UTF-8 text

 private:
  friend class StreamDecoder;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Streaming decode: gives text as tokens come, and holds back the bytes of a character that is not complete.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer);
  ~StreamDecoder();
  /// Text that is now certain; special tokens give none. Bytes that can never become a character give U+FFFD.
  std::string push(std::int32_t id);
  /// The rest at the end of an answer.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Position of the first byte that is not valid UTF-8, or npos.
std::size_t find_invalid_utf8(std::string_view text);

}  // namespace longhaul
