// store_rows: activations' rows as they are kept.
#include <algorithm>
#include <cstring>

#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/row_codes.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

void put_scale(std::byte* to, float scale) {
  const bf16 bits = to_bf16(scale);
  std::memcpy(to, &bits, sizeof bits);
}

}  // namespace

void encode_row(RowType type, const float* x, std::int64_t head_dim, std::byte* row) {
  std::byte* scales = row + code_bytes(type, head_dim);
  for (std::int64_t g = 0; g < 2 * head_dim; g += kRowGroup, scales += scale_bytes(type)) {
    rows::Range range;
    for (std::int64_t i = g; i < g + kRowGroup; ++i) range.add(x[i]);
    const rows::Scale scale = rows::scale_of(type, range);
    std::uint8_t codes[kRowGroup];
    for (std::int64_t i = 0; i < kRowGroup; ++i) codes[i] = rows::code_of(type, x[g + i], scale);
    put_scale(scales, scale.scale);
    if (type == RowType::int4) {
      put_scale(scales + 2, scale.low);
      for (std::int64_t i = 0; i < kRowGroup / 2; ++i) {
        const std::int64_t low = i / 4 * 8 + i % 4;
        codes[i] = static_cast<std::uint8_t>(codes[low] | codes[low + 4] << 4);  // what is read lies at or after i
      }
    }
    std::memcpy(row + g * code_bits(type) / 8, codes, kRowGroup * code_bits(type) / 8);
  }
  std::fill(scales, row + row_bytes(type, head_dim, DType::f32), std::byte{0});
}

void store_rows(const StoreRowsArgs& a) {
  check(a.src.type == RowType::act, "store_rows: from activations' rows");
  check(a.rows != nullptr || a.src.rows >= a.dst.rows, "store_rows: the source holds the rows");
  const std::int64_t d = a.head_dim, from_bytes = row_bytes(RowType::act, d, a.act);
  const std::int64_t to_bytes = row_bytes(a.dst.type, d, a.act);
  parallel_for(a.kv_heads * a.dst.rows, row_grain(2 * d), [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* space = scratch.get<float>(2 * d);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t h = i / a.dst.rows, place = i % a.dst.rows;
      if (a.rows != nullptr && a.rows[i] < 0) continue;
      const std::int64_t index = a.rows == nullptr ? place : a.rows[i] - a.src.first;
      check(index >= 0 && index < a.src.rows, "store_rows: the source holds the row");
      const std::byte* from = a.src.data + h * a.src.head_stride + index * from_bytes;
      std::byte* to = a.dst.data + h * a.dst.head_stride + place * to_bytes;
      if (a.dst.type == RowType::act) std::memcpy(to, from, from_bytes);
      else encode_row(a.dst.type, read_row(from, a.act, 2 * d, space), d, to);
    }
  });
}

}  // namespace longhaul::cpu
