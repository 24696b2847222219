// expand: packed weights to bf16, rows by all cores.
#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd/simd.h"

namespace longhaul::cpu {
namespace {

void expand_row(const std::byte* codes, const PackedFormat& f, std::int64_t cols, bf16* out) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(codes + packed_code_bytes(f, cols));
  for (std::int64_t g = 0, first = 0; first < cols; ++g, first += f.group) {
    const std::int64_t n = std::min<std::int64_t>(f.group, cols - first);
    const packed::Scale s = packed::scale_of(f.type, words, g);
    if (is_four_bits(f.type))
      simd().expand_4(codes + first / 2, n, s.step, static_cast<float>(s.zero), s.base, out + first);
    else if (f.type == PackedType::fp8) simd().expand_fp8(codes + first, n, s.step, out + first);
    else simd().expand_8(codes + first, n, s.step, out + first);
  }
}

}  // namespace

void expand(const ExpandArgs& a) {
  check(is_packable(a.format, a.cols), "expand: rows of a packed format");
  constexpr std::int64_t kGrain = 64 << 10;  // values
  const std::int64_t bytes = packed_row_bytes(a.format, a.cols);
  parallel_for(a.rows, std::max<std::int64_t>(kGrain / a.cols, 1), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      expand_row(a.packed + row * bytes, a.format, a.cols, a.out + row * a.cols);
  });
}

}  // namespace longhaul::cpu
