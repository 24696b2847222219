// Decode's product: every weight is read once and meets all tokens while it is in cache.
#include "kernels/cpu/simd/rows.h"
#include "kernels/cpu/simd/vec.h"

namespace longhaul::cpu::LONGHAUL_ISA {
namespace {

constexpr int W = kLanes;
using U = Vec<W>::U;

/// Rows per tile, so that rows x tokens running sums and a step's weights fit the registers.
constexpr int rows_for(int tokens) {
  const int sums = W == 16 ? 24 : 12, rows = sums / tokens;
  return rows < 8 ? rows : 8;
}

constexpr std::int64_t kStep = 1024;  // of a row at a time: 8 tokens' share of x then stays in the first-level cache

/// Adds n elements of R rows times T tokens to their running vectors: the same order whatever R and T are.
/// A load of 2 W weights is taken apart into those of even and of odd index; x comes in that order (split_pairs).
template <int R, int T>
void dot_tile(const bf16* w, std::int64_t in, std::int64_t n, const float* x, float* sums, std::int64_t row_sums) {
  F<W> acc[R][T];
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) acc[r][t] = load<W>(sums + r * row_sums + t * W);
  for (std::int64_t i = 0; i < n; i += 2 * W) {
    F<W> even[R], odd[R];
    for (int r = 0; r < R; ++r) {
      U pairs;
      __builtin_memcpy(&pairs, w + r * in + i, sizeof pairs);
      // The rows after this tile: R short streams start anew too often for the hardware's prefetcher.
      __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(w) + 2 * ((R + r) * in + i)), 0,
                         2);
      even[r] = (F<W>)(pairs << 16);
      odd[r] = (F<W>)(pairs & 0xffff0000u);
    }
    for (int t = 0; t < T; ++t) {
      F<W> xs = load<W>(x + t * in + i);
      for (int r = 0; r < R; ++r) acc[r][t] += even[r] * xs;
    }
    for (int t = 0; t < T; ++t) {
      F<W> xs = load<W>(x + t * in + i + W);
      for (int r = 0; r < R; ++r) acc[r][t] += odd[r] * xs;
    }
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) store<W>(sums + r * row_sums + t * W, acc[r][t]);
}

template <int T>
void dot_tokens(const bf16* w, std::int64_t rows, std::int64_t in, std::int64_t n, const float* x, float* sums,
                std::int64_t row_sums) {
  constexpr int R = rows_for(T);
  std::int64_t r = 0;
  for (; r + R <= rows; r += R) dot_tile<R, T>(w + r * in, in, n, x, sums + r * row_sums, row_sums);
  for (; r < rows; ++r) dot_tile<1, T>(w + r * in, in, n, x, sums + r * row_sums, row_sums);
}

}  // namespace

void split_pairs(const float* x, float* out, std::int64_t n) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
  std::int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W)
    for (int j = 0; j < 2 * W; ++j) out[i + j % 2 * W + j / 2] = x[i + j];
  for (; i < n; ++i) out[i] = x[i];
}

void dot_rows(const bf16* w, std::int64_t rows, std::int64_t in, const float* x, std::int64_t tokens, float* out,
              std::int64_t out_stride, float* sums) {
  constexpr int kMost = W == 16 ? 8 : 4;
  const std::int64_t row_sums = tokens * W, whole = in / (2 * W) * (2 * W);
  for (std::int64_t i = 0; i < rows * row_sums; ++i) sums[i] = 0;
  for (std::int64_t k = 0; k < whole; k += kStep) {
    const std::int64_t n = whole - k < kStep ? whole - k : kStep;
    std::int64_t t = 0;
    auto step = [&]<int T>() {
      for (; tokens - t >= T; t += T) dot_tokens<T>(w + k, rows, in, n, x + t * in + k, sums + t * W, row_sums);
    };
    step.template operator()<kMost>();
    step.template operator()<4>();
    step.template operator()<2>();
    step.template operator()<1>();
  }
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t t = 0; t < tokens; ++t) {
      float total = sum<W>(load<W>(sums + r * row_sums + t * W));
      for (std::int64_t i = whole; i < in; ++i) total += load<1>(w + r * in + i)[0] * x[t * in + i];
      out[t * out_stride + r] = total;
    }
}

}  // namespace longhaul::cpu::LONGHAUL_ISA
