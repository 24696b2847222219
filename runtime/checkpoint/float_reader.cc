#include <fmt/ranges.h>

#include <cstring>

#include "kernels/base/error.h"
#include "runtime/checkpoint/halves.h"
#include "runtime/checkpoint/tensor_reader.h"

namespace longhaul {
namespace {

float value_of(std::uint16_t half) { return half_to_float(half); }
float value_of(float x) { return x; }

class FloatReader : public TensorReader {
 public:
  FloatReader(const TensorFiles& files, const std::string& name, const TensorShape& shape, std::string_view dtype,
              std::int64_t element_bytes)
      : TensorReader(files, name, shape), info_(part(name, dtype, shape)), row_bytes_(cols() * element_bytes) {}
  std::int64_t stored_bytes(std::int64_t rows) const override { return rows * row_bytes_; }
  void fetch(RowSpan rows, std::byte* stored) const override {
    files_.read(info_, rows.first * row_bytes_, rows.count * row_bytes_, stored);
  }

 private:
  const TensorInfo& info_;
  const std::int64_t row_bytes_;
};

class PlainReader final : public FloatReader {
 public:
  PlainReader(const TensorFiles& files, const std::string& name, const TensorShape& shape)
      : FloatReader(files, name, shape, "BF16", 2) {}
  bool plain() const override { return true; }

 private:
  void decode(const std::byte* stored, RowSpan fetched, RowSpan rows, bf16* out) const override {
    std::memcpy(out, stored + (rows.first - fetched.first) * cols() * 2,
                static_cast<std::size_t>(rows.count * cols() * 2));
  }
};

/// Stored as `T`.
template <class T>
class RoundingReader final : public FloatReader {
 public:
  using FloatReader::FloatReader;

 private:
  void decode(const std::byte* stored, RowSpan fetched, RowSpan rows, bf16* out) const override {
    const T* from = reinterpret_cast<const T*>(stored) + (rows.first - fetched.first) * cols();
    for (std::int64_t i = 0; i < rows.count * cols(); ++i) out[i] = round_weight(value_of(from[i]));
  }
};

}  // namespace

bool is_float(std::string_view dtype) { return dtype == "BF16" || dtype == "F16" || dtype == "F32"; }

std::unique_ptr<TensorReader> float_reader(const TensorFiles& files, const std::string& name,
                                           const TensorShape& shape) {
  const TensorInfo* info = files.find(name);
  if (info == nullptr) files.missing(name);
  if (info->dtype == "F16") return std::make_unique<RoundingReader<std::uint16_t>>(files, name, shape, "F16", 2);
  if (info->dtype == "F32") return std::make_unique<RoundingReader<float>>(files, name, shape, "F32", 4);
  if (info->dtype == "BF16") return std::make_unique<PlainReader>(files, name, shape);
  throw UserError(Exit::bad_model, "{} is {} [{}]; expected BF16, F16 or F32 [{}]", files.where(name, *info),
                  info->dtype, fmt::join(info->shape, ", "), fmt::join(shape, ", "));
}

}  // namespace longhaul
