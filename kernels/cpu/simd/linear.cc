// Decode's product: every weight is read once and meets all tokens while it is in cache.
#include "kernels/cpu/simd/rows.h"
#include "kernels/cpu/simd/vec.h"

namespace longhaul::cpu::LONGHAUL_ISA {
namespace {

constexpr int W = kLanes;
constexpr int kRows = W == 16 ? 4 : 2;  // with kTokens and two sums each, what the registers hold
constexpr int kTokens = 3;

/// R x T results. Each is two running vectors over alternate pieces, added, folded, and then the tail: the same order
/// whatever R and T are.
template <int R, int T>
void dot_tile(const bf16* w, std::int64_t in, const float* x, float* out, std::int64_t out_stride) {
  F<W> acc[R][T][2] = {};
  std::int64_t i = 0;
  for (; i + 2 * W <= in; i += 2 * W)
    for (int j = 0; j < 2; ++j) {
      F<W> xs[T];
      for (int t = 0; t < T; ++t) xs[t] = load<W>(x + t * in + i + j * W);
      for (int r = 0; r < R; ++r) {
        F<W> ws = load<W>(w + r * in + i + j * W);
        for (int t = 0; t < T; ++t) acc[r][t][j] += ws * xs[t];
      }
    }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) {
      float total = sum<W>(acc[r][t][0] + acc[r][t][1]);
      for (std::int64_t k = i; k < in; ++k) total += load<1>(w + r * in + k)[0] * x[t * in + k];
      out[t * out_stride + r] = total;
    }
}

template <int T>
void dot_tokens(const bf16* w, std::int64_t rows, std::int64_t in, const float* x, float* out,
                std::int64_t out_stride) {
  std::int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) dot_tile<kRows, T>(w + r * in, in, x, out + r, out_stride);
  for (; r < rows; ++r) dot_tile<1, T>(w + r * in, in, x, out + r, out_stride);
}

}  // namespace

void dot_rows(const bf16* w, std::int64_t rows, std::int64_t in, const float* x, std::int64_t tokens, float* out,
              std::int64_t out_stride) {
  std::int64_t t = 0;
  for (; t + kTokens <= tokens; t += kTokens)
    dot_tokens<kTokens>(w, rows, in, x + t * in, out + t * out_stride, out_stride);
  if (tokens - t == 2) dot_tokens<2>(w, rows, in, x + t * in, out + t * out_stride, out_stride);
  if (tokens - t == 1) dot_tokens<1>(w, rows, in, x + t * in, out + t * out_stride, out_stride);
}

}  // namespace longhaul::cpu::LONGHAUL_ISA
