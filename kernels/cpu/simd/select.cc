// Selection: softmax over label scores, the group's combined score as an ordered integer, and the rows from a
// threshold on.
#include "kernels/cpu/simd/rows.h"
#include "kernels/cpu/simd/vec.h"

#ifdef __AVX512F__
#include <immintrin.h>  // its functions are always inlined: none becomes a symbol
#endif

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
      if constexpr (Highest) x = (y > x) | (x != x) ? y : x;  // a head of NaN has no say
      else x += y;
    }
    const U key = ordered(x);
    __builtin_memcpy(keys + r, &key, sizeof key);
  }
}

/// Writes some of n numbers, those whose key lies in [lowest, lowest + span), with unsigned wrap. Whole vectors are
/// compressed in registers where there is an instruction for it; nothing is written past the last one kept.
template <bool Keys>
std::int64_t keep(const std::uint32_t* keys, std::int64_t n, std::uint32_t lowest, std::uint32_t span,
                  std::uint32_t first, std::uint32_t* out) {
  std::int64_t kept = 0, r = 0;
#ifdef __AVX512F__
  __m512i number = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                                    _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  for (; r + 16 <= n; r += 16) {
    const __m512i key = _mm512_loadu_si512(keys + r);
    const __mmask16 in = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(key, _mm512_set1_epi32(static_cast<int>(lowest))),
                                                 _mm512_set1_epi32(static_cast<int>(span)));
    const int count = __builtin_popcount(in);
    const __mmask16 used = static_cast<__mmask16>((1u << count) - 1);
    _mm512_mask_storeu_epi32(out + kept, used, _mm512_maskz_compress_epi32(in, Keys ? key : number));
    kept += count;
    number = _mm512_add_epi32(number, _mm512_set1_epi32(16));
  }
#endif
  std::uint32_t some[64];
  for (; r < n; r += 64) {
    const std::int64_t end = r + 64 < n ? r + 64 : n;
    std::int64_t here = 0;
    for (std::int64_t i = r; i < end; ++i) {
      some[here] = Keys ? keys[i] : first + static_cast<std::uint32_t>(i);
      here += keys[i] - lowest < span;
    }
    if (here > 0) __builtin_memcpy(out + kept, some, here * sizeof(std::uint32_t));  // `out` may be null for none
    kept += here;
  }
  return kept;
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
  // No key is ~0 (it would be that of a NaN), so the span takes all there are from `lowest` on.
  return keep<false>(keys, n, lowest, ~lowest, static_cast<std::uint32_t>(first),
                     reinterpret_cast<std::uint32_t*>(out));
}

std::int64_t copy_keys(const std::uint32_t* keys, std::int64_t n, std::uint32_t lowest, std::uint32_t span,
                       std::uint32_t* out) {
  return keep<true>(keys, n, lowest, span, 0, out);
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
