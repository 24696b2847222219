#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "runtime/checkpoint/halves.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/checkpoint/quantised_readers.h"

namespace longhaul {
namespace {

/// The value of every e4m3 code: 4 bits of exponent with bias 7, no infinities, one NaN.
constexpr std::array<float, 256> kE4m3 = [] {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    float value = static_cast<float>(exponent == 0 ? mantissa : mantissa + 8) / 512;  // 2^-6 / 8
    for (int i = 1; i < exponent; ++i) value *= 2;
    if (exponent == 15 && mantissa == 7) value = std::numeric_limits<float>::quiet_NaN();
    values[static_cast<std::size_t>(code)] = code >= 128 ? -value : value;
  }
  return values;
}();

class ScaledReader final : public TensorReader {
 public:
  ScaledReader(const TensorFiles& files, const std::string& module, const TensorShape& shape, const Quantization& q)
      : TensorReader(files, module + ".weight", shape), info_(part(name_)), fp8_(info_.dtype == "F8_E4M3") {
    if ((!fp8_ && info_.dtype != "I8") || info_.shape != shape || shape.size() != 2)
      throw UserError(Exit::bad_model, "{} is {} [{}]; expected F8_E4M3 or I8 [{}]", files.where(name_, info_),
                      info_.dtype, fmt::join(info_.shape, ", "), fmt::join(shape, ", "));
    const std::string inverse = module + ".weight_scale_inv", plain = module + ".weight_scale";
    read_scales(files.find(inverse) != nullptr ? inverse : plain, q);
    for (const char* unused : {".input_scale", ".activation_scale"})  // of activations
      if (files.find(module + unused) != nullptr) part(module + unused);
  }

  std::int64_t stored_bytes(std::int64_t rows) const override { return rows * cols(); }
  void fetch(RowSpan rows, std::byte* stored) const override {
    files_.read(info_, rows.first * cols(), rows.count * cols(), stored);
  }
  PackedFormat packed_format() const override {
    return if_packable(fp8_ ? PackedType::fp8 : PackedType::int8, block_cols_);
  }

 private:
  void read_scales(const std::string& name, const Quantization& q) {
    const TensorInfo& info = part(name);
    const TensorShape blocks =
        q.block_rows == 0 ? TensorShape{} : TensorShape{ceil_div(rows(), q.block_rows), ceil_div(cols(), q.block_cols)};
    if (q.block_rows != 0 && info.shape == blocks) {
      block_rows_ = q.block_rows;
      block_cols_ = q.block_cols;
    } else if (info.shape.empty() || info.shape == TensorShape{1}) {
      block_rows_ = rows();
    } else if (info.shape == TensorShape{rows(), 1} || info.shape == TensorShape{rows()}) {
      block_rows_ = 1;
    } else {
      throw UserError(Exit::bad_model, "{} is [{}]; expected one scale, one a row ([{}, 1]){}",
                      files_.where(name, info), fmt::join(info.shape, ", "), rows(),
                      blocks.empty() ? std::string(", for quantization_config gives no weight_block_size")
                                     : fmt::format(" or one a block ([{}])", fmt::join(blocks, ", ")));
    }
    if (block_cols_ == 0 || block_cols_ > cols()) block_cols_ = cols();
    scales_ = read_floats(files_, name, info);
    blocks_across_ = ceil_div(cols(), block_cols_);
  }

  /// Block by block, each with a table of what its codes stand for.
  void decode(const std::byte* stored, RowSpan fetched, RowSpan rows, bf16* out) const override {
    const auto* codes = reinterpret_cast<const unsigned char*>(stored) + (rows.first - fetched.first) * cols();
    const std::int64_t end_row = rows.first + rows.count;
    for (std::int64_t row = rows.first, end; row < end_row; row = end) {
      end = std::min((row / block_rows_ + 1) * block_rows_, end_row);
      const float* scales = scales_.data() + row / block_rows_ * blocks_across_;
      for (std::int64_t begin = 0; begin < cols(); begin += block_cols_, ++scales) {
        const auto values = table(*scales);
        const std::int64_t past = std::min(begin + block_cols_, cols());
        for (std::int64_t r = 0; r < end - row; ++r)
          for (std::int64_t i = r * cols() + begin; i < r * cols() + past; ++i) out[i] = values[codes[i]];
      }
      codes += (end - row) * cols();
      out += (end - row) * cols();
    }
  }
  void encode(const std::byte* stored, RowSpan fetched, RowSpan rows, std::byte* out) const override {
    const std::byte* codes = stored + (rows.first - fetched.first) * cols();
    const std::int64_t bytes = packed_row_bytes(packed_format(), cols());
    for (std::int64_t row = rows.first; row < rows.first + rows.count; ++row, codes += cols(), out += bytes) {
      std::memcpy(out, codes, static_cast<std::size_t>(cols()));
      std::memcpy(packed_row(out).scales, scales_.data() + row / block_rows_ * blocks_across_,
                  static_cast<std::size_t>(blocks_across_ * 4));
    }
  }
  std::array<bf16, 256> table(float scale) const {
    std::array<bf16, 256> values;
    for (std::size_t code = 0; code < values.size(); ++code)
      values[code] = round_weight((fp8_ ? kE4m3[code] : static_cast<float>(static_cast<signed char>(code))) * scale);
    return values;
  }

  const TensorInfo& info_;
  const bool fp8_;
  std::int64_t block_rows_ = 0, block_cols_ = 0, blocks_across_ = 1;
  std::vector<float> scales_;
};

}  // namespace

std::vector<float> read_floats(const TensorFiles& files, const std::string& name, const TensorInfo& info) {
  if (!is_float(info.dtype))
    throw UserError(Exit::bad_model, "{} is {}; expected BF16, F16 or F32", files.where(name, info), info.dtype);
  const std::int64_t element = info.dtype == "F32" ? 4 : 2;
  std::vector<std::byte> bytes(static_cast<std::size_t>(info.bytes));
  files.read(info, 0, info.bytes, bytes.data());
  std::vector<float> values(static_cast<std::size_t>(info.bytes / element));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (info.dtype == "F32") values[i] = reinterpret_cast<const float*>(bytes.data())[i];
    else if (info.dtype == "F16") values[i] = half_to_float(reinterpret_cast<const std::uint16_t*>(bytes.data())[i]);
    else values[i] = to_float(reinterpret_cast<const bf16*>(bytes.data())[i]);
    if (!std::isfinite(values[i]))
      throw UserError(Exit::bad_model, "{} holds a value that is no finite number", files.where(name, info));
  }
  return values;
}

std::unique_ptr<TensorReader> scaled_reader(const TensorFiles& files, const std::string& module,
                                            const TensorShape& shape, const Quantization& quantization) {
  return std::make_unique<ScaledReader>(files, module, shape, quantization);
}

}  // namespace longhaul
