// GPTQ and AWQ. Both keep eight 4-bit codes in an int32, a zero point and a half-precision scale for each group of
// inputs and each output, and store a matrix by inputs: a span of our rows, which are outputs, is a strip of each
// stored row.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "runtime/checkpoint/halves.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/checkpoint/quantised_readers.h"

namespace longhaul {
namespace {

using Word = std::uint32_t;
constexpr std::int64_t kCodes = 8;             // in a word
constexpr std::int64_t kTables = kCodes * 16;  // values of eight outputs' codes in one group

/// Where in its word the code of column i of eight is: AWQ's kernels unpack even columns first.
constexpr std::array<int, kCodes> kAwqOrder{0, 4, 1, 5, 2, 6, 3, 7};
constexpr std::array<int, kCodes> kInOrder{0, 1, 2, 3, 4, 5, 6, 7};

class PackedReader : public TensorReader {
 public:
  std::int64_t row_step() const override { return kCodes; }  // a word of zero points
  std::int64_t stored_bytes(std::int64_t rows) const override {
    const std::int64_t words = ceil_div(rows, kCodes);
    return code_bytes(rows) + groups_ * (words * 4 + rows * 2);
  }
  void fetch(RowSpan rows, std::byte* stored) const final {
    const std::int64_t words = rows.count / kCodes, all_words = this->rows() / kCodes;
    fetch_codes(rows, stored);
    stored += code_bytes(rows.count);
    files_.read(zeros_,
                {.begin = rows.first / kCodes * 4, .width = words * 4, .pitch = all_words * 4, .count = groups_},
                stored);
    files_.read(scales_,
                {.begin = rows.first * 2, .width = rows.count * 2, .pitch = this->rows() * 2, .count = groups_},
                stored + groups_ * words * 4);
  }

 protected:
  PackedReader(const TensorFiles& files, const std::string& module, const TensorShape& shape, const Quantization& q,
               const TensorShape& code_shape, const std::array<int, kCodes>& order)
      : TensorReader(files, module + ".weight", shape),
        group_(q.group == 0 ? cols() : q.group),
        groups_(ceil_div(cols(), group_)),
        zero_offset_(static_cast<int>(q.zero_offset)),
        order_(order),
        codes_(part(module + ".qweight", "I32", code_shape)),
        zeros_(part(module + ".qzeros", "I32", {groups_, rows() / kCodes})),
        scales_(part(module + ".scales", "F16", {groups_, rows()})) {
    if (files.find(module + ".weight") != nullptr)
      throw UserError(Exit::bad_model, "{}: there are quantised parts of it, too; which is meant?",
                      files.where(module + ".weight", *files.find(module + ".weight")));
  }

  virtual std::int64_t code_bytes(std::int64_t rows) const = 0;
  virtual void fetch_codes(RowSpan rows, std::byte* stored) const = 0;
  /// The codes of eight outputs from `row` on, in the order of the inputs; out: `bytes` apart.
  virtual void encode_codes(const std::byte* stored, RowSpan fetched, std::int64_t row, std::byte* out,
                            std::int64_t bytes) const = 0;

  void encode(const std::byte* stored, RowSpan fetched, RowSpan rows, std::byte* out) const final {
    const std::int64_t bytes = packed_row_bytes(packed_format(), cols());
    for (std::int64_t row = rows.first; row < rows.first + rows.count; row += kCodes, out += kCodes * bytes) {
      encode_codes(stored, fetched, row, out, bytes);
      for (int r = 0; r < kCodes; ++r) {
        Word* to = packed_row(out + r * bytes).scales;
        for (std::int64_t g = 0; g < groups_; ++g) {
          const GroupScale scale = scale_of(stored, fetched, row, r, g);
          to[g] = static_cast<Word>(scale.half) | static_cast<Word>(scale.zero) << 16;
        }
      }
    }
  }

  /// The values that codes of eight outputs stand for, [groups, 8, 16]: few, and looked up for many codes.
  void tabulate(const std::byte* stored, RowSpan fetched, std::int64_t row, std::vector<bf16>& table) const {
    table.resize(static_cast<std::size_t>(groups_ * kTables));
    bf16* out = table.data();
    for (std::int64_t g = 0; g < groups_; ++g)
      for (int r = 0; r < kCodes; ++r) {
        const GroupScale s = scale_of(stored, fetched, row, r, g);
        const float scale = half_to_float(s.half);
        for (int code = 0; code < 16; ++code) *out++ = round_weight(static_cast<float>(code - s.zero) * scale);
      }
  }
  struct GroupScale {
    std::uint16_t half;
    int zero;
  };
  /// Of output row + r in group g.
  GroupScale scale_of(const std::byte* stored, RowSpan fetched, std::int64_t row, int r, std::int64_t g) const {
    const std::int64_t words = fetched.count / kCodes, at = row - fetched.first;
    const auto* zeros = reinterpret_cast<const Word*>(stored + code_bytes(fetched.count));
    const auto* halves = reinterpret_cast<const std::uint16_t*>(zeros + groups_ * words);
    const auto stored_zero = static_cast<int>(zeros[g * words + at / kCodes] >> shift(r) & 15);
    return {halves[g * fetched.count + at + r], (stored_zero + zero_offset_) & 15};
  }
  int shift(std::int64_t column) const { return 4 * order_[static_cast<std::size_t>(column)]; }

  const std::int64_t group_, groups_;
  const int zero_offset_;
  const std::array<int, kCodes>& order_;
  const TensorInfo &codes_, &zeros_, &scales_;
};

/// Messages of both, for shapes that the packing cannot hold.
void check_packable(const std::string& module, const TensorShape& shape, bool inputs_too) {
  if (shape.size() != 2 || shape[0] % kCodes != 0 || (inputs_too && shape[1] % kCodes != 0))
    throw UserError(Exit::bad_model, "tensor {}: a quantised matrix [{}] must have dimensions that are multiples of {}",
                    quoted(module + ".qweight"), fmt::join(shape, ", "), kCodes);
}

class GptqReader final : public PackedReader {
 public:
  GptqReader(const TensorFiles& files, const std::string& module, const TensorShape& shape, const Quantization& q)
      : PackedReader(files, module, shape, q, {shape[1] / kCodes, shape[0]}, kInOrder) {
    const std::string name = module + ".g_idx";
    group_of_.resize(static_cast<std::size_t>(cols()));
    if (files.find(name) == nullptr) {  // the oldest files: groups in order
      for (std::int64_t i = 0; i < cols(); ++i) group_of_[static_cast<std::size_t>(i)] = in_order(i);
      return;
    }
    const TensorInfo& info = part(name, "I32", {cols()});
    files.read(info, 0, info.bytes, reinterpret_cast<std::byte*>(group_of_.data()));
    for (const std::int32_t g : group_of_)
      if (g < 0 || g >= groups_)
        throw UserError(Exit::bad_model, "{}: group {} is out of range; there are {}", files.where(name, info), g,
                        groups_);
    for (std::int64_t i = 0; i < cols(); ++i) ordered_ &= group_of_[static_cast<std::size_t>(i)] == in_order(i);
  }
  /// Inputs of a group that do not stand together (desc_act) have no packed form.
  PackedFormat packed_format() const override {
    return ordered_ ? if_packable(PackedType::int4, group_) : PackedFormat{};
  }

 private:
  std::int32_t in_order(std::int64_t input) const { return static_cast<std::int32_t>(input / group_); }
  std::int64_t code_bytes(std::int64_t rows) const override { return cols() / kCodes * rows * 4; }
  void fetch_codes(RowSpan rows, std::byte* stored) const override {
    files_.read(codes_,
                {.begin = rows.first * 4, .width = rows.count * 4, .pitch = this->rows() * 4, .count = cols() / kCodes},
                stored);
  }
  void decode(const std::byte* stored, RowSpan fetched, RowSpan rows, bf16* out) const override {
    std::vector<bf16> table;
    for (std::int64_t row = rows.first; row < rows.first + rows.count; row += kCodes, out += kCodes * cols()) {
      tabulate(stored, fetched, row, table);
      const auto* words = reinterpret_cast<const Word*>(stored) + row - fetched.first;
      for (std::int64_t i = 0; i < cols(); i += kCodes, words += fetched.count) {
        std::array<const bf16*, kCodes> of_input;
        for (std::int64_t k = 0; k < kCodes; ++k)
          of_input[static_cast<std::size_t>(k)] = table.data() + group_of_[static_cast<std::size_t>(i + k)] * kTables;
        for (std::int64_t r = 0; r < kCodes; ++r) {
          Word word = words[r];
          bf16* to = out + r * cols() + i;
          for (const bf16* values : of_input) {
            *to++ = values[r * 16 + (word & 15)];
            word >>= 4;
          }
        }
      }
    }
  }
  void encode_codes(const std::byte* stored, RowSpan fetched, std::int64_t row, std::byte* out,
                    std::int64_t bytes) const override {
    const auto* words = reinterpret_cast<const Word*>(stored) + row - fetched.first;
    for (std::int64_t i = 0; i < cols() / kCodes; ++i, words += fetched.count)
      for (std::int64_t r = 0; r < kCodes; ++r) std::memcpy(out + r * bytes + i * 4, words + r, 4);
  }
  std::vector<std::int32_t> group_of_;  // [in]
  bool ordered_ = true;
};

class AwqReader final : public PackedReader {
 public:
  AwqReader(const TensorFiles& files, const std::string& module, const TensorShape& shape, const Quantization& q)
      : PackedReader(files, module, shape, q, {shape[1], shape[0] / kCodes}, kAwqOrder) {}
  PackedFormat packed_format() const override { return if_packable(PackedType::int4, group_); }

 private:
  std::int64_t code_bytes(std::int64_t rows) const override { return cols() * ceil_div(rows, kCodes) * 4; }
  void fetch_codes(RowSpan rows, std::byte* stored) const override {
    files_.read(codes_,
                {.begin = rows.first / kCodes * 4,
                 .width = rows.count / kCodes * 4,
                 .pitch = this->rows() / kCodes * 4,
                 .count = cols()},
                stored);
  }
  void decode(const std::byte* stored, RowSpan fetched, RowSpan rows, bf16* out) const override {
    const std::int64_t across = fetched.count / kCodes;
    std::array<int, kCodes> shifts;
    for (std::size_t r = 0; r < shifts.size(); ++r) shifts[r] = shift(static_cast<std::int64_t>(r));
    std::vector<bf16> table;
    for (std::int64_t row = rows.first; row < rows.first + rows.count; row += kCodes, out += kCodes * cols()) {
      tabulate(stored, fetched, row, table);
      const auto* words = reinterpret_cast<const Word*>(stored) + (row - fetched.first) / kCodes;
      for (std::int64_t g = 0; g < groups_; ++g) {
        const bf16* values = table.data() + g * kTables;
        const std::int64_t end = std::min((g + 1) * group_, cols());
        for (std::int64_t i = g * group_; i < end; ++i, words += across)
          for (std::int64_t r = 0; r < kCodes; ++r)
            out[r * cols() + i] = values[r * 16 + (*words >> shifts[static_cast<std::size_t>(r)] & 15)];
      }
    }
  }
  void encode_codes(const std::byte* stored, RowSpan fetched, std::int64_t row, std::byte* out,
                    std::int64_t bytes) const override {
    const std::int64_t across = fetched.count / kCodes;
    const auto* words = reinterpret_cast<const Word*>(stored) + (row - fetched.first) / kCodes;
    for (std::int64_t i = 0; i < cols(); i += kCodes, words += kCodes * across)
      for (std::int64_t r = 0; r < kCodes; ++r) {
        Word word = 0;
        for (std::int64_t k = 0; k < kCodes; ++k) word |= (words[k * across] >> shift(r) & 15) << 4 * k;
        std::memcpy(out + r * bytes + i / 2, &word, 4);
      }
  }
};

}  // namespace

std::unique_ptr<TensorReader> gptq_reader(const TensorFiles& files, const std::string& module, const TensorShape& shape,
                                          const Quantization& quantization) {
  check_packable(module, shape, true);
  return std::make_unique<GptqReader>(files, module, shape, quantization);
}

std::unique_ptr<TensorReader> awq_reader(const TensorFiles& files, const std::string& module, const TensorShape& shape,
                                         const Quantization& quantization) {
  check_packable(module, shape, false);
  return std::make_unique<AwqReader>(files, module, shape, quantization);
}

}  // namespace longhaul
