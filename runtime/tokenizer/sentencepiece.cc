#include "runtime/tokenizer/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <utility>

#include "kernels/base/error.h"

namespace longhaul {
namespace {

using Kind = SentencePieceFile::Kind;
constexpr std::string_view kSpace = "\u2581";

}  // namespace

struct SentencePiece::Library {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePiece::SentencePiece(SentencePieceFile file, const std::string& where, Prefix prefix)
    : library_(std::make_unique<Library>()), collapses_spaces_(file.collapses_spaces), prefix_(prefix) {
  if (!library_->processor.LoadFromSerializedProto(file.model).ok())
    throw UserError(Exit::bad_model, "{}: the SentencePiece library refuses it", where);
  // A merge makes a piece of two neighbours, the best first, the left one of equals; so where no piece has two
  // characters side by side, what happens on one side does not depend on the other. Unused pieces are taken apart
  // again, by how the whole text came to them last.
  cuts_ = std::ranges::none_of(file.pieces, [](const auto& piece) { return piece.kind == Kind::unused; });
  for (std::size_t id = 0; id < file.pieces.size(); ++id) {
    const auto& [text, kind] = file.pieces[id];
    if (kind == Kind::unknown && !file.byte_fallback) unknown_ = static_cast<std::int32_t>(id);
    if (kind != Kind::normal || text.empty()) continue;
    joints_.add(text);
    if (character_at(text, 0).size() != text.size()) continue;
    const char32_t code = utf8_code_point(text);
    if (code >= known_.size()) known_.resize(code + 1);
    known_[code] = true;
  }
}
SentencePiece::~SentencePiece() = default;

std::int32_t SentencePiece::begin_id() const { return library_->processor.bos_id(); }
std::int32_t SentencePiece::end_id() const { return library_->processor.eos_id(); }

std::string SentencePiece::spell(std::string_view text, bool first) const {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  bool after_space = collapses_spaces_;
  for (const char c : text) {
    if (c != ' ') out += c;
    else if (!after_space) out += kSpace;
    after_space = collapses_spaces_ && c == ' ';
  }
  while (collapses_spaces_ && out.ends_with(kSpace)) out.resize(out.size() - kSpace.size());
  const bool prefix = prefix_ == Prefix::always || (prefix_ == Prefix::first && first && !out.starts_with(kSpace));
  if (prefix && !out.empty()) out.insert(0, kSpace);
  return out;
}

void SentencePiece::cut(std::string_view spelled, const std::function<void(std::string_view)>& part) const {
  if (!cuts_) return part(spelled);
  cut_text(
      spelled, [this](char32_t left, char32_t right) { return joints_.contains(left, right); }, part);
}

void SentencePiece::encode(std::string_view spelled, std::vector<std::int32_t>& out) const {
  if (unknown_ >= 0) check_run_of_unknown(spelled);
  std::vector<int> ids;
  const auto status = library_->processor.Encode({spelled.data(), spelled.size()}, &ids);
  if (!status.ok()) throw UserError(Exit::io, "SentencePiece cannot tokenize the text: {}", status.ToString());
  out.insert(out.end(), ids.begin(), ids.end());
}

// The library joins the characters of such a run one by one, in quadratic time. It is long only where a text could not
// be cut.
void SentencePiece::check_run_of_unknown(std::string_view spelled) const {
  constexpr std::int64_t kMost = 1 << 14;
  std::int64_t run = 0;
  for (std::size_t at = 0; at < spelled.size() && std::ssize(spelled) > kMost;) {
    const std::string_view character = character_at(spelled, at);
    const char32_t code = utf8_code_point(character);
    run = code < known_.size() && known_[code] ? 0 : run + 1;
    if (run > kMost)
      throw UserError(Exit::io, "a run of more than {} characters that tokenizer.model does not know is not supported",
                      kMost);
    at += character.size();
  }
}

}  // namespace longhaul
