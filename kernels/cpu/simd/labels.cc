// Labels: keys times a small basis, their codes, and the scan that scores every row by them.
#include "kernels/cpu/simd/rows.h"
#include "kernels/cpu/simd/vec.h"

namespace longhaul::cpu::LONGHAUL_ISA {
namespace {

constexpr std::int64_t kBlock = 64;

template <int N>
void dots_of(const float* w, std::int64_t rows, std::int64_t n, const float* x, float* out) {
  for (std::int64_t i = 0; i < rows; i += 4) {
    const float* at[4];
    for (int j = 0; j < 4; ++j) at[j] = w + (i + j < rows ? i + j : rows - 1) * n;
    F<N> acc[4] = {};
    for (std::int64_t c = 0; c < n; c += N)
      for (int j = 0; j < 4; ++j) acc[j] += load<N>(at[j] + c) * load<N>(x + c);
    const F<4> sums = sum4(acc[0], acc[1], acc[2], acc[3]);
    for (int j = 0; j < 4 && i + j < rows; ++j) out[i + j] = sums[j];
  }
}

/// Two rows at once share the loads of the map.
template <class T, int N>
void project_rows(const ProjectArgs& a) {
  constexpr int R = 2;
  const std::int64_t d = a.head_dim;
  for (std::int64_t r = 0; r < a.count; r += R) {
    const T* k[R];
    for (int i = 0; i < R; ++i)
      k[i] = static_cast<const T*>(a.rows) + (r + i < a.count ? r + i : a.count - 1) * a.stride;
    for (int i = 0; i < R; ++i)  // 16 rows on; V between two keys is skipped, which hardware does not foresee
      for (std::int64_t b = 0; b < d; b += 64 / static_cast<std::int64_t>(sizeof(T)))
        __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(k[i] + 16 * a.stride + b)), 0,
                           2);
    for (std::int64_t j = 0; j < a.dims; j += 4) {
      const float* map[4];
      for (int i = 0; i < 4; ++i) map[i] = a.map + (j + i < a.dims ? j + i : a.dims - 1) * d;
      F<N> acc[R][4] = {};
      for (std::int64_t c = 0; c < d; c += N) {
        F<N> ks[R];
        for (int y = 0; y < R; ++y) ks[y] = load<N>(k[y] + c);
        for (int i = 0; i < 4; ++i) {
          const F<N> column = load<N>(map[i] + c);
          for (int y = 0; y < R; ++y) acc[y][i] += ks[y] * column;
        }
      }
      for (int y = 0; y < R && r + y < a.count; ++y) {
        const F<4> sums = sum4(acc[y][0], acc[y][1], acc[y][2], acc[y][3]);
        for (int i = 0; i < 4 && j + i < a.dims; ++i) a.out[(j + i) * kBlock + r + y] = sums[i];
      }
    }
  }
}

template <class T>
void project(const ProjectArgs& a) {
  if (a.head_dim % kLanes == 0) project_rows<T, kLanes>(a);
  else project_rows<T, 8>(a);
}

template <int N>
using Bytes [[gnu::vector_size(N)]] = std::uint8_t;

template <int N>
[[gnu::always_inline]] inline typename Vec<N>::I load_bytes(const std::byte* p) {
  Bytes<N> b;
  __builtin_memcpy(&b, p, sizeof b);
  // In two steps: GCC 12 takes one step apart into scalars.
  return __builtin_convertvector(__builtin_convertvector(b, typename Vec<N>::H), typename Vec<N>::I);
}

/// The codes of 2 N rows of a block in one dimension, as float32. Part p of the block: rows from p * N, and with 4 bits
/// those from p * N + 32 too.
template <int N, int Bits>
[[gnu::always_inline]] inline void unpack(const std::byte* codes, std::int64_t part, F<N>* out) {
  if constexpr (Bits == 4) {
    const auto both = load_bytes<N>(codes + part * N);
    out[0] = __builtin_convertvector(both & 15, F<N>);
    out[1] = __builtin_convertvector(both >> 4, F<N>);
  } else if constexpr (Bits == 8) {
    for (int i = 0; i < 2; ++i) out[i] = __builtin_convertvector(load_bytes<N>(codes + (2 * part + i) * N), F<N>);
  } else {
    for (int i = 0; i < 2; ++i) out[i] = load<N>(reinterpret_cast<const bf16*>(codes) + (2 * part + i) * N);
  }
}

/// H heads over all blocks. P parts of a block at once: 2 * P * H sums stay in registers.
template <int Bits, int H>
void scan_heads(const ScanArgs& a, std::int64_t head) {
  constexpr int N = kLanes, P = N == 16 ? 2 : 1;
  constexpr std::int64_t row_bytes = kBlock * Bits / 8;
  const float* weights = a.weights + head * a.dims;
  float* out = a.out + head * a.out_stride;
  for (std::int64_t b = 0; b < a.blocks; ++b)
    for (std::int64_t part = 0; part < kBlock / (2 * N); part += P) {
      F<N> sums[H][2 * P] = {};
      const std::byte* codes = a.codes + b * a.dims * row_bytes;
      for (std::int64_t j = 0; j < a.dims; ++j, codes += row_bytes) {
        F<N> x[2 * P];
        for (int p = 0; p < P; ++p) unpack<N, Bits>(codes, part + p, x + 2 * p);
        for (int h = 0; h < H; ++h)
          for (int i = 0; i < 2 * P; ++i) sums[h][i] += x[i] * weights[h * a.dims + j];
      }
      for (int h = 0; h < H; ++h)
        for (int p = 0; p < P; ++p) {
          float* at = out + h * a.out_stride + b * kBlock + (part + p) * (Bits == 4 ? N : 2 * N);
          store<N>(at, sums[h][2 * p]);
          store<N>(at + (Bits == 4 ? 32 : N), sums[h][2 * p + 1]);
        }
    }
}

template <int Bits>
void scan(const ScanArgs& a) {
  std::int64_t h = 0;
  for (; h + 4 <= a.heads; h += 4) scan_heads<Bits, 4>(a, h);
  if (a.heads - h == 3) scan_heads<Bits, 3>(a, h);
  if (a.heads - h == 2) scan_heads<Bits, 2>(a, h);
  if (a.heads - h == 1) scan_heads<Bits, 1>(a, h);
}

}  // namespace

void dots(const float* w, std::int64_t rows, std::int64_t n, const float* x, float* out) {
  if (n % kLanes == 0) dots_of<kLanes>(w, rows, n, x, out);
  else dots_of<8>(w, rows, n, x, out);
}

void project_bf16(const ProjectArgs& a) { project<bf16>(a); }
void project_f32(const ProjectArgs& a) { project<float>(a); }

void encode(const float* x, float zero, float step, float top, std::uint8_t* codes) {
  constexpr int N = kLanes;
  for (std::int64_t r = 0; r < kBlock; r += N) {
    F<N> v = (load<N>(x + r) - zero) / step;
    v = v > 0 ? v : F<N>{};  // NaN too
    v = v < top ? v : splat<N>(top);
    const auto wide = __builtin_convertvector(v + 0.5f, typename Vec<N>::I);
    const auto bytes = __builtin_convertvector(__builtin_convertvector(wide, typename Vec<N>::H), Bytes<N>);
    __builtin_memcpy(codes + r, &bytes, sizeof bytes);
  }
}

void scan_labels(const ScanArgs& a) {
  if (a.bits == 4) scan<4>(a);
  else if (a.bits == 8) scan<8>(a);
  else scan<16>(a);
}

}  // namespace longhaul::cpu::LONGHAUL_ISA
