// Decode's attention over K | V rows, and prefill's softmax step (FlashAttention, arXiv 2205.14135, section 3.1).
#include "kernels/cpu/simd/row_types.h"
#include "kernels/cpu/simd/rows.h"

namespace longhaul::cpu::LONGHAUL_ISA {
namespace {

constexpr int kMaxBlock = 64;
constexpr int kSpare = 16;
constexpr int kHeads = 4;  // query heads that share a row's loads

template <int V>
struct Constant {
  static constexpr int value = V;
};

/// Rows one after the other; those of the next block are known ahead.
template <class T>
struct Run {
  const std::byte* first;
  std::int64_t row_bytes, d;
  Row<T> operator[](std::int64_t r) const { return {first + r * row_bytes, d}; }
  /// Asks for rows [r, r + count).
  void fetch(std::int64_t r, std::int64_t count) const {
    const auto at = reinterpret_cast<std::uintptr_t>(first + r * row_bytes);
    for (std::int64_t b = 0; b < count * row_bytes; b += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(at + b), 0, 2);
  }
};

/// Rows anywhere; `known` of them, of which the block is the first ones.
template <class T>
struct Scattered {
  const std::byte* const* rows;
  std::int64_t known, row_bytes, d;
  Row<T> operator[](std::int64_t r) const { return {rows[r], d}; }
  void fetch(std::int64_t r, std::int64_t count) const {
    for (std::int64_t i = r; i < r + count && i < known; ++i)
      for (std::int64_t b = 0; b < row_bytes; b += 64) __builtin_prefetch(rows[i] + b, 0, 2);
  }
};

/// s[h][r] = q[h] . k[r]. D = 0: head_dim is known at run time only. Writes up to kSpare columns past n.
template <class T, int N, int D, int H, class Rows>
void scores(const Rows& rows, std::int64_t n, std::int64_t d, const float* q, float (*s)[kMaxBlock + kSpare]) {
  constexpr int R = 4 / H;  // rows at once, so that four sums are folded together
  const std::int64_t dim = D ? D : d;
  for (std::int64_t r = 0; r < n; r += R) {
    F<N> acc[4] = {};
    Row<T> k[R];
    for (int j = 0; j < R; ++j) k[j] = rows[r + j < n ? r + j : n - 1];
    // The next block, K and V: the two are read in separate passes, a pattern that hardware does not foresee.
    rows.fetch(r + n, R);
    for (std::int64_t i = 0; i < dim; i += N)
      for (int j = 0; j < R; ++j) {
        F<N> ks = k[j].template values<N>(i);
        for (int h = 0; h < H; ++h) acc[j * H + h] += ks * load<N>(q + h * dim + i);
      }
    F<4> sums = sum4(acc[0], acc[1], acc[2], acc[3]);
    for (int j = 0; j < R; ++j)
      for (int h = 0; h < H; ++h) s[h][r + j] = sums[j * H + h];
  }
}

/// C vectors of every head's o, from column i of the values: o * alpha + sum of p v, in row order.
template <class T, int N, int C, int H, class Rows>
void add_values(const Rows& rows, std::int64_t n, std::int64_t d, std::int64_t i, const float (*p)[kMaxBlock + kSpare],
                const float* alpha, float* o) {
  F<N> acc[H][C];
  for (int h = 0; h < H; ++h)
    for (int c = 0; c < C; ++c) acc[h][c] = load<N>(o + h * d + i + c * N) * alpha[h];
  for (std::int64_t r = 0; r < n; ++r) {
    const Row<T> row = rows[r];
    F<N> vs[C];
    for (int c = 0; c < C; ++c) vs[c] = row.template values<N>(d + i + c * N);
    for (int h = 0; h < H; ++h)
      for (int c = 0; c < C; ++c) acc[h][c] += vs[c] * p[h][r];
  }
  for (int h = 0; h < H; ++h)
    for (int c = 0; c < C; ++c) store<N>(o + h * d + i + c * N, acc[h][c]);
}

/// Moves H states on by one block of rows, whose scores are in s: the online softmax, then the values.
template <class T, int N, int D, int H, class Rows>
void add_block(const Rows& rows, std::int64_t n, std::int64_t head_dim, float (*s)[kMaxBlock + kSpare], float* o,
               float* m, float* l) {
  const std::int64_t d = D ? D : head_dim;
  float alpha[H];
  for (int h = 0; h < H; ++h)
    for (std::int64_t r = n; r < (n + N - 1) / N * N; ++r) s[h][r] = -__builtin_inff();
  for (int h = 0; h < H; ++h) {
    F<N> highest_lanes = splat<N>(m[h]);
    for (std::int64_t r = 0; r < n; r += N) highest_lanes = max<N>(load<N>(s[h] + r), highest_lanes);
    const float top = highest<N>(highest_lanes);
    F<N> total = {};
    for (std::int64_t r = 0; r < n; r += N) {
      F<N> p = exp<N>(load<N>(s[h] + r) - top);
      total += p;
      store<N>(s[h] + r, p);
    }
    alpha[h] = exp<4>(splat<4>(m[h] - top))[0];
    l[h] = l[h] * alpha[h] + sum<N>(total);
    m[h] = top;
  }
  constexpr int C = N == 16 || H < 3 ? 4 : 2;  // H * C sums stay in registers
  std::int64_t i = 0;
  for (; i + C * N <= d; i += C * N) add_values<T, N, C, H>(rows, n, d, i, s, alpha, o);
  for (; i < d; i += N) add_values<T, N, 1, H>(rows, n, d, i, s, alpha, o);
}

/// Calls body with the number of heads at once, as a constant, and the first of them.
template <class Body>
void for_heads(std::int64_t heads, const Body& body) {
  std::int64_t h = 0;
  for (; h + kHeads <= heads; h += kHeads) body(Constant<kHeads>{}, h);
  if (heads - h == 3) body(Constant<3>{}, h);
  if (heads - h == 2) body(Constant<2>{}, h);
  if (heads - h == 1) body(Constant<1>{}, h);
}

template <class T, int N, int D>
void attend_dim(const AttendRowsArgs& a) {
  const std::int64_t d = D ? D : a.head_dim;
  for (std::int64_t first = 0; first < a.count; first += a.block) {
    const std::int64_t n = a.count - first < a.block ? a.count - first : a.block;
    const Run<T> rows{a.rows + first * a.row_bytes, a.row_bytes, d};
    for_heads(a.heads, [&](auto heads, std::int64_t h) {
      constexpr int H = decltype(heads)::value;
      alignas(64) float s[H][kMaxBlock + kSpare];
      scores<T, N, D, H>(rows, n, d, a.q + h * d, s);
      add_block<T, N, D, H>(rows, n, d, s, a.o + h * d, a.m + h, a.l + h);
    });
  }
}

template <class T, int N, int D>
void score_listed_dim(const ListedRowsArgs& a) {
  const std::int64_t d = D ? D : a.head_dim;
  const Scattered<T> rows{a.rows, a.count + a.ahead, a.row_bytes, d};
  for_heads(a.heads, [&](auto heads, std::int64_t h) {
    constexpr int H = decltype(heads)::value;
    alignas(64) float s[H][kMaxBlock + kSpare];
    scores<T, N, D, H>(rows, a.count, d, a.q + h * d, s);
    for (int j = 0; j < H; ++j) __builtin_memcpy(a.scores + (h + j) * a.score_stride, s[j], a.count * sizeof(float));
  });
}

template <class T, int N, int D>
void add_listed_dim(const ListedRowsArgs& a) {
  const std::int64_t d = D ? D : a.head_dim;
  const Scattered<T> rows{a.rows, a.count + a.ahead, a.row_bytes, d};
  for (std::int64_t r = a.count; r < a.count + a.ahead && r < 2 * a.count; ++r)
    for (std::int64_t b = a.row_bytes / 2; b < a.row_bytes; b += 64) __builtin_prefetch(a.rows[r] + b, 0, 2);
  for_heads(a.heads, [&](auto heads, std::int64_t h) {
    constexpr int H = decltype(heads)::value;
    alignas(64) float s[H][kMaxBlock + kSpare];
    for (int j = 0; j < H; ++j) __builtin_memcpy(s[j], a.scores + (h + j) * a.score_stride, a.count * sizeof(float));
    add_block<T, N, D, H>(rows, a.count, d, s, a.o + h * d, a.m + h, a.l + h);
  });
}

/// The same choice of loops for every operator on K | V rows, so that they give the same bits.
template <class Body>
void for_dim(std::int64_t head_dim, const Body& body) {
  if (head_dim == 128) body(Constant<kLanes>{}, Constant<128>{});
  else if (head_dim == 64) body(Constant<kLanes>{}, Constant<64>{});
  else body(Constant<8>{}, Constant<0>{});
}

template <class T>
void attend_rows(const AttendRowsArgs& a) {
  for_dim(a.head_dim, [&](auto n, auto d) { attend_dim<T, decltype(n)::value, decltype(d)::value>(a); });
}

template <class T>
void score_listed(const ListedRowsArgs& a) {
  for_dim(a.head_dim, [&](auto n, auto d) { score_listed_dim<T, decltype(n)::value, decltype(d)::value>(a); });
}

template <class T>
void add_listed(const ListedRowsArgs& a) {
  for_dim(a.head_dim, [&](auto n, auto d) { add_listed_dim<T, decltype(n)::value, decltype(d)::value>(a); });
}

template <class T>
void softmax(const SoftmaxArgs& a) {
  constexpr int W = kLanes;
  for (std::int64_t i = 0; i < a.rows; ++i) {
    float* s = a.s + i * a.s_stride;
    T* p = static_cast<T*>(a.p) + i * a.p_stride;
    std::int64_t n = a.visible + i;
    n = n < 0 ? 0 : n > a.cols ? a.cols : n;
    const std::int64_t hidden = a.hidden + i < n ? a.hidden + i : n;
    const std::int64_t padded = hidden == n ? 0 : (n + W - 1) / W * W;
    for (std::int64_t c = 0; c < hidden; ++c) s[c] = -__builtin_inff();
    for (std::int64_t c = n; c < padded; ++c) s[c] = -__builtin_inff();
    if (padded > 0) {
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

extern const RowLoops kRowsBf16{attend_rows<bf16>, score_listed<bf16>, add_listed<bf16>};
extern const RowLoops kRowsF32{attend_rows<float>, score_listed<float>, add_listed<float>};
extern const RowLoops kRowsInt8{attend_rows<Int8>, score_listed<Int8>, add_listed<Int8>};
extern const RowLoops kRowsFp8{attend_rows<Fp8>, score_listed<Fp8>, add_listed<Fp8>};
extern const RowLoops kRowsInt4{attend_rows<Int4>, score_listed<Int4>, add_listed<Int4>};
void softmax_bf16(const SoftmaxArgs& a) { softmax<bf16>(a); }
void softmax_f32(const SoftmaxArgs& a) { softmax<float>(a); }

}  // namespace longhaul::cpu::LONGHAUL_ISA
