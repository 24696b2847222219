#include "runtime/tokenizer/sentencepiece_file.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "kernels/base/error.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
namespace {

using Kind = SentencePieceFile::Kind;

struct Broken {};

// The fields of a message. A message inside a message is bytes.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : bytes_(bytes) {}
  bool done() const { return at_ == bytes_.size(); }
  struct Field {
    std::uint64_t number, value;  // value: of a varint
    std::string_view bytes;       // of a string or message
    std::size_t tag, begin, end;  // places in the message: of the field, of the value, past it
  };
  Field next() {
    Field field{0, 0, {}, at_, 0, 0};
    const std::uint64_t tag = varint();
    field.number = tag >> 3;
    field.begin = at_;
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
        field.bytes = bytes_.substr(field.begin, length);
        break;
      }
      case 5:
        skip(4);
        break;
      default:
        throw Broken();
    }
    field.end = at_;
    return field;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64 && !done(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    throw Broken();
  }
  void skip(std::uint64_t count) {
    if (count > bytes_.size() - at_) throw Broken();
    at_ += count;
  }
  std::string_view bytes_;
  std::size_t at_ = 0;
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

class Reader {
 public:
  Reader(std::string bytes, std::string where) : bytes_(std::move(bytes)), where_(std::move(where)) {}

  SentencePieceFile read() {
    enum : std::uint64_t { piece = 1, trainer, normalizer, self_test, denormalizer };
    std::vector<std::pair<std::size_t, std::size_t>> kept;
    for (Fields fields(bytes_); !fields.done();) {
      const Fields::Field field = fields.next();
      if (field.number == piece) read_piece(field);
      if (field.number == trainer) read_trainer(field.bytes);
      if (field.number == normalizer) read_normalizer(field.bytes);
      if (field.number != self_test && field.number != denormalizer) kept.emplace_back(field.tag, field.end);
    }
    if (out_.pieces.empty()) throw Broken();
    if (!bpe_) refuse("its model_type is not supported (BPE is); download the model's tokenizer.json");
    for (const auto& [begin, end] : kept) out_.model.append(bytes_, begin, end - begin);
    // A message that comes twice is merged: this switches add_dummy_prefix and remove_extra_whitespaces off.
    constexpr std::string_view kAsItIs("\x1a\4\x18\0\x20\0", 6);
    out_.model += kAsItIs;
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const { throw UserError(Exit::bad_model, "{}: {}", where_, what); }

  void read_piece(const Fields::Field& message) {
    SentencePieceFile::Piece read{"", Kind::normal};
    std::size_t type_at = 0;
    for (Fields fields(message.bytes); !fields.done();) {
      const Fields::Field field = fields.next();
      if (field.number == 1) read.text = field.bytes;
      if (field.number == 3 && field.value >= 1 && field.value <= 6) {
        read.kind = static_cast<Kind>(field.value);
        type_at = message.begin + field.begin;
      }
    }
    // The library gives its id for the character in any text.
    if (read.kind == Kind::control && !read.text.empty() && character_at(read.text, 0).size() == read.text.size())
      refuse(fmt::format("the control token {} of one character is not supported", longhaul::quoted(read.text)));
    if (read.kind == Kind::user_defined && is_space(read.text)) {
      read.kind = Kind::normal;
    } else if (read.kind == Kind::user_defined) {
      bytes_[type_at] = static_cast<char>(Kind::control);
    }
    out_.pieces.push_back(std::move(read));
  }

  void read_trainer(std::string_view message) {
    for (Fields fields(message); !fields.done();) {
      const Fields::Field field = fields.next();
      if (field.number == 3) bpe_ = field.value == 2;
      if (field.number == 24 && field.value != 0) refuse("treat_whitespace_as_suffix is not supported");
      if (field.number == 35) out_.byte_fallback = field.value != 0;
    }
  }

  void read_normalizer(std::string_view message) {
    for (Fields fields(message); !fields.done();) {
      const Fields::Field field = fields.next();
      // The library follows this table wherever it leads.
      if (field.number == 2 && !field.bytes.empty())
        refuse(
            "has a table of normalizations (precompiled_charsmap), which is not supported; download the model's "
            "tokenizer.json");
      if (field.number == 3) out_.adds_space = field.value != 0;
      if (field.number == 4) out_.collapses_spaces = field.value != 0;
      if (field.number == 5 && field.value == 0) refuse("escape_whitespaces false is not supported");
    }
  }

  std::string bytes_, where_;
  bool bpe_ = false;
  SentencePieceFile out_;
};

}  // namespace

SentencePieceFile read_sentencepiece(std::string bytes, const std::string& where) {
  try {
    return Reader(std::move(bytes), where).read();
  } catch (const Broken&) {
    throw UserError(Exit::bad_model, "{}: is no SentencePiece model (nor ranks in tiktoken's format)", where);
  }
}

}  // namespace longhaul
