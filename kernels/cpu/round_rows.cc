// round_rows: what a cache of fewer bits would give back, group by group.
#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kGroup = 64;

void round_group(float* x, std::int64_t n, float top) {
  const auto [low, high] = std::minmax_element(x, x + n);
  const float zero = *low, step = (*high - zero) / top;
  if (!(step > 0)) return;  // all equal: exact as they are
  for (std::int64_t i = 0; i < n; ++i) x[i] = zero + step * std::nearbyint((x[i] - zero) / step);
}

}  // namespace

void round_rows(const RoundRowsArgs& a) {
  check(a.bits >= 1 && a.bits <= 16, "round_rows: 1 to 16 bits");
  const std::int64_t d = a.head_dim, width = 2 * d;
  const float top = static_cast<float>((1 << a.bits) - 1);
  parallel_for(a.kv_heads * a.kv.rows, row_grain(width), [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* x = scratch.get<float>(width);
    for (std::int64_t i = begin; i < end; ++i) {
      std::byte* row = at(a.kv.data + i / a.kv.rows * a.kv.head_stride, a.act, i % a.kv.rows * width);
      const float* from = read_row(row, a.act, width, x);
      std::copy_n(from, from == x ? 0 : width, x);
      for (std::int64_t half = 0; half < width; half += d)
        for (std::int64_t g = 0; g < d; g += kGroup) round_group(x + half + g, std::min(kGroup, d - g), top);
      write_row(x, row, a.act, width);
    }
  });
}

}  // namespace longhaul::cpu
