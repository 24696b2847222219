// Decode's attention over K | V rows, and prefill's softmax step (FlashAttention, arXiv 2205.14135, section 3.1).
#include "kernels/cpu/simd/rows.h"
#include "kernels/cpu/simd/vec.h"

namespace longhaul::cpu::LONGHAUL_ISA {
namespace {

constexpr int kMaxBlock = 64;
constexpr int kSpare = 16;
constexpr int kHeads = 4;  // query heads that share a row's loads

/// s[h][r] = q[h] . k[r]. D = 0: head_dim is known at run time only. Writes up to kSpare columns past n.
template <class T, int N, int D, int H>
void scores(const T* rows, std::int64_t n, std::int64_t d, const float* q, float (*s)[kMaxBlock + kSpare]) {
  constexpr int R = 4 / H;  // rows at once, so that four sums are folded together
  const std::int64_t dim = D ? D : d;
  for (std::int64_t r = 0; r < n; r += R) {
    F<N> acc[4] = {};
    const T* k[R];
    for (int j = 0; j < R; ++j) k[j] = rows + (r + j < n ? r + j : n - 1) * 2 * dim;
    // The next block, K and V: the two are read in separate passes, a pattern that hardware does not foresee.
    const auto next = reinterpret_cast<std::uintptr_t>(rows + (r + n) * 2 * dim);
    for (std::int64_t b = 0; b < R * 2 * dim * static_cast<std::int64_t>(sizeof(T)); b += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(next + b), 0, 2);
    for (std::int64_t i = 0; i < dim; i += N)
      for (int j = 0; j < R; ++j) {
        F<N> ks = load<N>(k[j] + i);
        for (int h = 0; h < H; ++h) acc[j * H + h] += ks * load<N>(q + h * dim + i);
      }
    F<4> sums = sum4(acc[0], acc[1], acc[2], acc[3]);
    for (int j = 0; j < R; ++j)
      for (int h = 0; h < H; ++h) s[h][r + j] = sums[j * H + h];
  }
}

/// C vectors of every head's o: o * alpha + sum of p v, in row order.
template <class T, int N, int C, int H>
void add_values(const T* v, std::int64_t n, std::int64_t d, const float (*p)[kMaxBlock + kSpare], const float* alpha,
                float* o) {
  F<N> acc[H][C];
  for (int h = 0; h < H; ++h)
    for (int c = 0; c < C; ++c) acc[h][c] = load<N>(o + h * d + c * N) * alpha[h];
  for (std::int64_t r = 0; r < n; ++r, v += 2 * d) {
    F<N> vs[C];
    for (int c = 0; c < C; ++c) vs[c] = load<N>(v + c * N);
    for (int h = 0; h < H; ++h)
      for (int c = 0; c < C; ++c) acc[h][c] += vs[c] * p[h][r];
  }
  for (int h = 0; h < H; ++h)
    for (int c = 0; c < C; ++c) store<N>(o + h * d + c * N, acc[h][c]);
}

/// One block of rows for H heads.
template <class T, int N, int D, int H>
void attend_block(const T* rows, std::int64_t n, const AttendRowsArgs& a, std::int64_t head) {
  const std::int64_t d = D ? D : a.head_dim;
  alignas(64) float s[H][kMaxBlock + kSpare];
  float alpha[H];
  scores<T, N, D, H>(rows, n, d, a.q + head * d, s);
  for (int h = 0; h < H; ++h)
    for (std::int64_t r = n; r < (n + N - 1) / N * N; ++r) s[h][r] = -__builtin_inff();
  for (int h = 0; h < H; ++h) {
    F<N> top = splat<N>(a.m[head + h]);
    for (std::int64_t r = 0; r < n; r += N) top = max<N>(load<N>(s[h] + r), top);
    const float m = highest<N>(top);
    F<N> total = {};
    for (std::int64_t r = 0; r < n; r += N) {
      F<N> p = exp<N>(load<N>(s[h] + r) - m);
      total += p;
      store<N>(s[h] + r, p);
    }
    alpha[h] = exp<4>(splat<4>(a.m[head + h] - m))[0];
    a.l[head + h] = a.l[head + h] * alpha[h] + sum<N>(total);
    a.m[head + h] = m;
  }
  constexpr int C = N == 16 || H < 3 ? 4 : 2;  // H * C sums stay in registers
  std::int64_t i = 0;
  for (; i + C * N <= d; i += C * N) add_values<T, N, C, H>(rows + d + i, n, d, s, alpha, a.o + head * d + i);
  for (; i < d; i += N) add_values<T, N, 1, H>(rows + d + i, n, d, s, alpha, a.o + head * d + i);
}

template <class T, int N, int D>
void attend_dim(const AttendRowsArgs& a) {
  for (std::int64_t first = 0; first < a.count; first += a.block) {
    const std::int64_t n = a.count - first < a.block ? a.count - first : a.block;
    const T* rows = static_cast<const T*>(a.rows) + first * 2 * a.head_dim;
    std::int64_t h = 0;
    for (; h + kHeads <= a.heads; h += kHeads) attend_block<T, N, D, kHeads>(rows, n, a, h);
    if (a.heads - h == 3) attend_block<T, N, D, 3>(rows, n, a, h);
    if (a.heads - h == 2) attend_block<T, N, D, 2>(rows, n, a, h);
    if (a.heads - h == 1) attend_block<T, N, D, 1>(rows, n, a, h);
  }
}

template <class T>
void attend_rows(const AttendRowsArgs& a) {
  if (a.head_dim == 128) attend_dim<T, kLanes, 128>(a);
  else if (a.head_dim == 64) attend_dim<T, kLanes, 64>(a);
  else attend_dim<T, 8, 0>(a);
}

template <class T>
void softmax(const SoftmaxArgs& a) {
  constexpr int W = kLanes;
  for (std::int64_t i = 0; i < a.rows; ++i) {
    float* s = a.s + i * a.s_stride;
    T* p = static_cast<T*>(a.p) + i * a.p_stride;
    std::int64_t n = a.visible + i;
    n = n < 0 ? 0 : n > a.cols ? a.cols : n;
    const std::int64_t padded = (n + W - 1) / W * W;
    for (std::int64_t c = n; c < padded; ++c) s[c] = -__builtin_inff();
    if (n > 0) {
      F<W> top[2] = {load<W>(s), load<W>(s)};
      for (std::int64_t c = 0; c + 2 * W <= padded; c += 2 * W)
        for (int j = 0; j < 2; ++j) top[j] = max<W>(load<W>(s + c + j * W), top[j]);
      float &m = a.m[i * a.ml_stride], &l = a.l[i * a.ml_stride];
      const float here = a.scale * highest<W>(max<W>(max<W>(top[0], top[1]), load<W>(s + padded - W)));
      const float to = here > m ? here : m, alpha = exp<4>(splat<4>(m - to))[0];
      F<W> total = {};
      for (std::int64_t c = 0; c < padded; c += W) {
        F<W> e = exp<W>(load<W>(s + c) * a.scale - to);
        total += e;
        store<W>(p + c, e);
      }
      l = l * alpha + sum<W>(total);
      m = to;
      if (alpha != 1.0f) {
        float* o = a.o + i * a.o_stride;
        for (std::int64_t c = 0; c < a.head_dim; ++c) o[c] *= alpha;
      }
    }
    for (std::int64_t c = padded; c < a.cols; c += W) store<W>(p + c, F<W>{});
  }
}

}  // namespace

void attend_rows_bf16(const AttendRowsArgs& a) { attend_rows<bf16>(a); }
void attend_rows_f32(const AttendRowsArgs& a) { attend_rows<float>(a); }
void softmax_bf16(const SoftmaxArgs& a) { softmax<bf16>(a); }
void softmax_f32(const SoftmaxArgs& a) { softmax<float>(a); }

}  // namespace longhaul::cpu::LONGHAUL_ISA
