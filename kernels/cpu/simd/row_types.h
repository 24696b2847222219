// A KV row's values as vectors, whatever its type (kernels/row_format.h). The N values of a vector are of one group.
#pragma once
#include "kernels/cpu/simd/vec.h"

namespace longhaul::cpu::LONGHAUL_ISA {

/// Of activations.
template <class T>
struct Row {
  const std::byte* at;
  std::int64_t d;  // head_dim

  template <int N>
  [[gnu::always_inline]] F<N> values(std::int64_t i) const {
    return load<N>(reinterpret_cast<const T*>(at) + i);
  }
};

struct Int8 {};
struct Fp8 {};
struct Int4 {};

inline constexpr std::int64_t kGroup = 32;  // kRowGroup

/// N bytes of type B.
template <class B, int N>
struct Bytes {
  typedef B Narrow __attribute__((vector_size(N)));
};
template <class B, int N>
[[gnu::always_inline]] inline typename Bytes<B, N>::Narrow load_bytes(const std::byte* at) {
  typename Bytes<B, N>::Narrow c;
  __builtin_memcpy(&c, at, N);
  return c;
}

// By way of 16 bits: a compiler may take the whole way element by element.
template <int N>
[[gnu::always_inline]] inline typename Vec<N>::I widened(typename Bytes<std::int8_t, N>::Narrow c) {
  typedef std::int16_t Half __attribute__((vector_size(N * 2)));
  return __builtin_convertvector(__builtin_convertvector(c, Half), typename Vec<N>::I);
}
template <int N>
[[gnu::always_inline]] inline typename Vec<N>::U widened(typename Bytes<std::uint8_t, N>::Narrow c) {
  return __builtin_convertvector(__builtin_convertvector(c, typename Vec<N>::H), typename Vec<N>::U);
}

/// N codes of e4m3; not of NaN's.
template <int N>
[[gnu::always_inline]] inline F<N> e4m3(const std::byte* at) {
  using U = typename Vec<N>::U;
  const U codes = widened<N>(load_bytes<std::uint8_t, N>(at)), magnitude = codes & 0x7fu;
  // Below 2^-6 in steps of 2^-9, above it an exponent and a fraction.
  const F<N> small = __builtin_convertvector((typename Vec<N>::I)magnitude, F<N>) * 0x1p-9f;
  const F<N> value = magnitude < 8u ? small : (F<N>)((magnitude << 20) + (120u << 23));
  return (F<N>)((U)value | (codes & 0x80u) << 24);
}

/// A bf16 in memory.
[[gnu::always_inline]] inline float scale_at(const std::byte* at) {
  std::uint16_t half;
  __builtin_memcpy(&half, at, sizeof half);
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

template <>
struct Row<Int8> {
  const std::byte* at;
  std::int64_t d;

  template <int N>
  [[gnu::always_inline]] F<N> values(std::int64_t i) const {
    const typename Vec<N>::I codes = widened<N>(load_bytes<std::int8_t, N>(at + i));
    return __builtin_convertvector(codes, F<N>) * scale_at(at + 2 * d + i / kGroup * 2);
  }
};

template <>
struct Row<Fp8> {
  const std::byte* at;
  std::int64_t d;

  template <int N>
  [[gnu::always_inline]] F<N> values(std::int64_t i) const {
    return e4m3<N>(at + i) * scale_at(at + 2 * d + i / kGroup * 2);
  }
};

/// N values of 4 bits, in the order of kernels/row_format.h.
template <int N>
[[gnu::always_inline]] inline typename Vec<N>::U nibbles(const std::byte* at) {
  using U = typename Vec<N>::U;
  const auto b = load_bytes<std::uint8_t, N / 2>(at);
  if constexpr (N == 8) {
    const U both = widened<N>(__builtin_shufflevector(b, b, 0, 1, 2, 3, 0, 1, 2, 3));
    return both >> U{0, 0, 0, 0, 4, 4, 4, 4} & 15u;
  } else {
    const U both = widened<N>(__builtin_shufflevector(b, b, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7));
    return both >> U{0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4} & 15u;
  }
}

template <>
struct Row<Int4> {
  const std::byte* at;
  std::int64_t d;

  template <int N>
  [[gnu::always_inline]] F<N> values(std::int64_t i) const {
    const std::byte* scale = at + d + i / kGroup * 4;
    const auto codes = (typename Vec<N>::I)nibbles<N>(at + i / 2);
    return __builtin_convertvector(codes, F<N>) * scale_at(scale) + scale_at(scale + 2);
  }
};

}  // namespace longhaul::cpu::LONGHAUL_ISA
