#include "runtime/checkpoint/tensor_reader.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/error.h"
#include "runtime/checkpoint/json_file.h"

namespace longhaul {

TensorReader::TensorReader(const TensorFiles& files, std::string name, const TensorShape& shape)
    : files_(files), name_(std::move(name)), rows_(1), cols_(shape.back()) {
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows_ *= shape[i];
}

const TensorInfo& TensorReader::part(const std::string& name, std::string_view dtype, const TensorShape& shape) {
  parts_.insert(name);
  return files_.expect(name, dtype, shape);
}

const TensorInfo& TensorReader::part(const std::string& name) {
  const TensorInfo* info = files_.find(name);
  if (info == nullptr) files_.missing(name);
  parts_.insert(name);
  return *info;
}

void TensorReader::convert(const std::byte* stored, RowSpan fetched, RowSpan rows, bf16* out) const {
  decode(stored, fetched, rows, out);
  constexpr std::int16_t kExponent = 0x7f80;
  std::int16_t largest = 0;  // of all exponents: a loop without a branch
  for (std::int64_t i = 0; i < rows.count * cols_; ++i)
    largest = std::max(largest, static_cast<std::int16_t>(out[i].bits & kExponent));
  if (largest == kExponent)
    throw UserError(Exit::bad_model, "tensor {} holds a value that is no finite number, or too large for bf16",
                    quoted(name_));
}

void TensorReader::pack(const std::byte* stored, RowSpan fetched, RowSpan rows, std::byte* out) const {
  thread_local std::vector<bf16> values;
  values.resize(static_cast<std::size_t>(rows.count * cols_));
  convert(stored, fetched, rows, values.data());  // for what it refuses
  std::memset(out, 0, static_cast<std::size_t>(rows.count * packed_row_bytes(packed_format(), cols_)));
  encode(stored, fetched, rows, out);
}

void TensorReader::encode(const std::byte* /*stored*/, RowSpan /*fetched*/, RowSpan /*rows*/,
                          std::byte* /*out*/) const {
  check(false, "only what has a packed format is packed");
}

PackedFormat TensorReader::if_packable(PackedType type, std::int64_t group) const {
  const PackedFormat format{type, static_cast<std::int32_t>(group)};
  return is_packable(format, cols_) ? format : PackedFormat{};
}

TensorReader::PackedRow TensorReader::packed_row(std::byte* out) const {
  return {out, reinterpret_cast<std::uint32_t*>(out + packed_code_bytes(packed_format(), cols_))};
}

}  // namespace longhaul
