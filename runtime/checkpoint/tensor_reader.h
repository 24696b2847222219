// One tensor of a checkpoint, given out by rows in bf16, or packed if it is quantised, whatever the file stores it as.
// In two steps, so that they overlap: fetch() only reads, convert() and pack() only compute. None has state: any thread
// may call any.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kernels/packed_format.h"
#include "runtime/checkpoint/tensor_files.h"

namespace longhaul {

using TensorShape = std::vector<std::int64_t>;

struct RowSpan {
  std::int64_t first, count;
};

class TensorReader {
 public:
  virtual ~TensorReader() = default;
  /// The last dimension is a row; a vector is one.
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  /// What the tensor is read from, by the names in the file.
  const std::set<std::string>& parts() const { return parts_; }

  /// fetch() gives bf16 itself, and there is nothing to convert.
  virtual bool plain() const { return false; }
  /// Spans of rows begin at a multiple of this; also those of convert() and pack().
  virtual std::int64_t row_step() const { return 1; }
  /// The most that fetch() writes for so many rows.
  virtual std::int64_t stored_bytes(std::int64_t rows) const = 0;
  /// Reads what `rows` are stored as. Throws UserError{io}.
  virtual void fetch(RowSpan rows, std::byte* stored) const = 0;
  /// Some rows (`out`, [rows.count, cols]) of what fetch(fetched, stored) has read. Throws UserError{bad_model} where a
  /// value is not finite in bf16.
  void convert(const std::byte* stored, RowSpan fetched, RowSpan rows, bf16* out) const;
  /// As what its rows can be packed; none: as nothing that stands for the same values.
  virtual PackedFormat packed_format() const { return {}; }
  /// As convert(), but for `out`, [rows.count, packed_row_bytes], which expand() turns into what convert() gives.
  void pack(const std::byte* stored, RowSpan fetched, RowSpan rows, std::byte* out) const;

 protected:
  TensorReader(const TensorFiles& files, std::string name, const TensorShape& shape);
  virtual void decode(const std::byte* stored, RowSpan fetched, RowSpan rows, bf16* out) const = 0;
  /// `out` is all zeros.
  virtual void encode(const std::byte* stored, RowSpan fetched, RowSpan rows, std::byte* out) const;
  /// Those of a reader that this one stands in front of, and checks.
  static void decode_of(const TensorReader& inner, const std::byte* stored, RowSpan fetched, RowSpan rows, bf16* out) {
    inner.decode(stored, fetched, rows, out);
  }
  static void encode_of(const TensorReader& inner, const std::byte* stored, RowSpan fetched, RowSpan rows,
                        std::byte* out) {
    inner.encode(stored, fetched, rows, out);
  }
  /// `format`, where rows can have it.
  PackedFormat if_packable(PackedType type, std::int64_t group) const;
  /// Codes and scales of the row at `out`.
  struct PackedRow {
    std::byte* codes;
    std::uint32_t* scales;
  };
  PackedRow packed_row(std::byte* out) const;
  /// A part that must have this type and shape.
  const TensorInfo& part(const std::string& name, std::string_view dtype, const TensorShape& shape);
  /// A part whose caller looks at type and shape; throws UserError{bad_model} where it is absent.
  const TensorInfo& part(const std::string& name);

  const TensorFiles& files_;
  const std::string name_;

 private:
  std::int64_t rows_, cols_;
  std::set<std::string> parts_;
};

/// "BF16", "F16", "F32": rounded to bf16 where it is more. BF16 is taken as it is, infinities and NaN too.
std::unique_ptr<TensorReader> float_reader(const TensorFiles& files, const std::string& name, const TensorShape& shape);
bool is_float(std::string_view dtype);

}  // namespace longhaul
