#include "runtime/tokenizer/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/file.h"

namespace longhaul {
namespace {

using Kind = SentencePiece::Kind;

// The file as protobuf has it on disk: ModelProto.pieces is field 1, SentencePiece.type is field 3 of each.
class Proto {
 public:
  explicit Proto(std::string_view bytes) : bytes_(bytes) {}
  bool done() const { return at_ >= bytes_.size() || broken_; }
  bool broken() const { return broken_; }
  struct Field {
    std::uint64_t number, value;
    std::size_t begin, end;  // the place of the value in the bytes
  };
  Field next() {
    const std::uint64_t tag = varint();
    Field field{tag >> 3, 0, at_, at_};
    switch (tag & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        skip(8);
        break;
      case 2: {
        const std::uint64_t length = varint();
        field.begin = at_;
        skip(length);
        break;
      }
      case 5:
        skip(4);
        break;
      default:
        broken_ = true;
    }
    field.end = at_;
    return field;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ >= bytes_.size()) break;
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    broken_ = true;
    return 0;
  }
  void skip(std::uint64_t count) {
    if (count > bytes_.size() - at_) broken_ = true;
    else at_ += count;
  }
  std::string_view bytes_;
  std::size_t at_ = 0;
  bool broken_ = false;
};

bool is_space(std::string_view text) {
  constexpr std::string_view kSpace = "\xe2\x96\x81";
  while (!text.empty()) {
    const std::size_t size = text.starts_with(kSpace) ? kSpace.size() : text[0] == '\n' || text[0] == '\t' ? 1 : 0;
    if (size == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

}  // namespace

struct SentencePiece::Impl {
  sentencepiece::SentencePieceProcessor processor;
  std::vector<Piece> pieces;
};

SentencePiece::SentencePiece(const std::filesystem::path& file) : impl_(std::make_unique<Impl>()) {
  const auto fail = [&] {
    throw UserError(Exit::bad_model, "{}: is no SentencePiece model (nor ranks in tiktoken's format)", file.string());
  };
  std::string bytes = read_file(file);
  Proto model(bytes);
  while (!model.done()) {
    const Proto::Field piece = model.next();
    if (piece.number != 1 || model.broken()) continue;
    const std::string_view inside = std::string_view(bytes).substr(piece.begin, piece.end - piece.begin);
    Piece read{"", Kind::normal};
    std::size_t type_at = 0;
    for (Proto fields(inside); !fields.done();) {
      const Proto::Field field = fields.next();
      if (fields.broken()) fail();
      if (field.number == 1) read.text = inside.substr(field.begin, field.end - field.begin);
      if (field.number == 3 && field.value >= 1 && field.value <= 6) {
        read.kind = static_cast<Kind>(field.value);
        type_at = piece.begin + field.begin;
      }
    }
    // User-defined pieces are looked for before the library sees a text, so that a document cannot spell them; to the
    // library they are control tokens. But for spaces, which command nothing.
    if (read.kind == Kind::user_defined) {
      if (is_space(read.text)) read.kind = Kind::normal;
      else bytes[type_at] = static_cast<char>(Kind::control);
    }
    impl_->pieces.push_back(std::move(read));
  }
  if (model.broken() || impl_->pieces.empty() || !impl_->processor.LoadFromSerializedProto(bytes).ok()) fail();
}
SentencePiece::~SentencePiece() = default;

const std::vector<SentencePiece::Piece>& SentencePiece::pieces() const { return impl_->pieces; }

std::int32_t SentencePiece::begin_id() const { return impl_->processor.bos_id(); }
std::int32_t SentencePiece::end_id() const { return impl_->processor.eos_id(); }

bool SentencePiece::adds_space() const {
  std::vector<std::string> pieces;
  return impl_->processor.Encode("a", &pieces).ok() && !pieces.empty() && pieces[0].starts_with("\xe2\x96\x81");
}

void SentencePiece::encode(std::string_view text, std::vector<std::int32_t>& out) const {
  std::vector<int> ids;
  const auto status = impl_->processor.Encode({text.data(), text.size()}, &ids);
  if (!status.ok()) throw UserError(Exit::io, "SentencePiece cannot tokenize the text: {}", status.ToString());
  out.insert(out.end(), ids.begin(), ids.end());
}

}  // namespace longhaul
