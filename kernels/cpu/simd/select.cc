// Selection: softmax over label scores, the group's combined score as an ordered integer, and the rows from a
// threshold on.
#include "kernels/cpu/simd/rows.h"
#include "kernels/cpu/simd/vec.h"

namespace longhaul::cpu::LONGHAUL_ISA {
namespace {

constexpr int N = kLanes;
using U = Vec<N>::U;
using I = Vec<N>::I;

/// The float's bits, so turned that unsigned integers are in its order: -0 as 0, NaN below all.
[[gnu::always_inline]] inline U ordered(F<N> x) {
  x += 0.0f;
  const U bits = (U)x;
  const U key = bits ^ ((U)((I)bits >> 31) | 0x80000000u);
  return x == x ? key : U{};
}

template <bool Highest>
void combine_heads(const float* s, std::int64_t stride, const float* factors, std::int64_t heads, std::uint32_t* keys,
                   std::int64_t n) {
  for (std::int64_t r = 0; r < n; r += N) {
    F<N> x = load<N>(s + r) * factors[0];
    for (std::int64_t h = 1; h < heads; ++h) {
      const F<N> y = load<N>(s + h * stride + r) * factors[h];
      if constexpr (Highest) x = max<N>(x, y);
      else x += y;
    }
    const U key = ordered(x);
    __builtin_memcpy(keys + r, &key, sizeof key);
  }
}

}  // namespace

float top_score(float* s, std::int64_t n) {
  const std::int64_t padded = (n + 15) / 16 * 16;
  for (std::int64_t r = n; r < padded; ++r) s[r] = -__builtin_inff();
  F<N> top[4] = {load<N>(s), load<N>(s), load<N>(s), load<N>(s)};
  std::int64_t r = 0;
  for (; r + 4 * N <= padded; r += 4 * N)
    for (int i = 0; i < 4; ++i) top[i] = max<N>(load<N>(s + r + i * N), top[i]);
  for (; r < padded; r += N) top[0] = max<N>(load<N>(s + r), top[0]);
  return highest<N>(max<N>(max<N>(top[0], top[1]), max<N>(top[2], top[3])));
}

float exp_scores(float* s, float top, std::int64_t n) {
  F<N> total[2] = {};
  std::int64_t r = 0;
  for (; r + N < n; r += 2 * N)
    for (int i = 0; i < 2; ++i) {
      const F<N> e = exp<N>(load<N>(s + r + i * N) - top);
      total[i] += e;
      store<N>(s + r + i * N, e);
    }
  for (; r < n; r += N) {
    const F<N> e = exp<N>(load<N>(s + r) - top);
    total[0] += e;
    store<N>(s + r, e);
  }
  return sum<N>(total[0] + total[1]);
}

void combine(const float* s, std::int64_t stride, const float* factors, std::int64_t heads, bool highest,
             std::uint32_t* keys, std::int64_t n) {
  if (highest) combine_heads<true>(s, stride, factors, heads, keys, n);
  else combine_heads<false>(s, stride, factors, heads, keys, n);
}

std::int64_t keep_keys(const std::uint32_t* keys, std::int64_t n, std::uint32_t lowest, std::int32_t first,
                       std::int32_t* out) {
  std::int64_t kept = 0;
  std::int32_t some[64];
  for (std::int64_t r = 0; r < n; r += 64) {
    const std::int64_t end = r + 64 < n ? r + 64 : n;
    std::int64_t here = 0;
    for (std::int64_t i = r; i < end; ++i) {
      some[here] = first + static_cast<std::int32_t>(i);
      here += keys[i] >= lowest;
    }
    __builtin_memcpy(out + kept, some, here * sizeof(std::int32_t));
    kept += here;
  }
  return kept;
}

void add_probabilities(const AddProbabilitiesArgs& a) {
  for (std::int64_t i = 0; i < a.rows; ++i) {
    const float *s = a.s + i * a.s_stride, m = a.m[i * a.ml_stride], l = a.l[i * a.ml_stride];
    std::int64_t n = a.visible + i;
    n = n < 0 ? 0 : n > a.cols ? a.cols : n;
    if (!(l > 0)) continue;  // an empty state
    const float factor = 1 / l;
    std::int64_t c = 0;
    for (; c + N <= n; c += N)
      store<N>(a.sums + c, load<N>(a.sums + c) + exp<N>(load<N>(s + c) * a.scale - m) * factor);
    if (c == n) continue;
    const F<N> last = exp<N>(load<N>(s + c) * a.scale - m) * factor;
    alignas(64) float some[N];
    store<N>(some, last);
    for (std::int64_t j = 0; c + j < n; ++j) a.sums[c + j] += some[j];
  }
}

}  // namespace longhaul::cpu::LONGHAUL_ISA
