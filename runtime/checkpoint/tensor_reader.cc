#include "runtime/checkpoint/tensor_reader.h"

#include <algorithm>

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

}  // namespace longhaul
