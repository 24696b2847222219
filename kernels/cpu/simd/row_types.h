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

template <class C, int N>
[[gnu::always_inline]] inline C load_codes(const std::byte* at) {
  C c;
  __builtin_memcpy(&c, at, N);
  return c;
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
    typedef std::int8_t Codes __attribute__((vector_size(N)));
    const auto codes = __builtin_convertvector(load_codes<Codes, N>(at + i), typename Vec<N>::I);
    return __builtin_convertvector(codes, F<N>) * scale_at(at + 2 * d + i / kGroup * 2);
  }
};

template <>
struct Row<Fp8> {
  const std::byte* at;
  std::int64_t d;

  template <int N>
  [[gnu::always_inline]] F<N> values(std::int64_t i) const {
    using U = typename Vec<N>::U;
    typedef std::uint8_t Codes __attribute__((vector_size(N)));
    const U codes = __builtin_convertvector(load_codes<Codes, N>(at + i), U), magnitude = codes & 0x7fu;
    // Below 2^-6 in steps of 2^-9, above it an exponent and a fraction.
    const F<N> small = __builtin_convertvector((typename Vec<N>::I)magnitude, F<N>) * 0x1p-9f;
    const F<N> value = magnitude < 8u ? small : (F<N>)((magnitude << 20) + (120u << 23));
    return (F<N>)((U)value | (codes & 0x80u) << 24) * scale_at(at + 2 * d + i / kGroup * 2);
  }
};

[[gnu::always_inline]] inline Vec<8>::U nibbles(const std::byte* at, F<8>) {
  typedef std::uint8_t B4 __attribute__((vector_size(4)));
  const B4 b = load_codes<B4, 4>(at);
  const auto both = __builtin_convertvector(__builtin_shufflevector(b, b, 0, 1, 2, 3, 0, 1, 2, 3), Vec<8>::U);
  return both >> Vec<8>::U{0, 0, 0, 0, 4, 4, 4, 4} & 15u;
}
[[gnu::always_inline]] inline Vec<16>::U nibbles(const std::byte* at, F<16>) {
  typedef std::uint8_t B8 __attribute__((vector_size(8)));
  const B8 b = load_codes<B8, 8>(at);
  const auto both = __builtin_convertvector(
      __builtin_shufflevector(b, b, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7), Vec<16>::U);
  return both >> Vec<16>::U{0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4} & 15u;
}

template <>
struct Row<Int4> {
  const std::byte* at;
  std::int64_t d;

  template <int N>
  [[gnu::always_inline]] F<N> values(std::int64_t i) const {
    const std::byte* scale = at + d + i / kGroup * 4;
    const auto codes = (typename Vec<N>::I)nibbles(at + i / 2, F<N>{});
    return __builtin_convertvector(codes, F<N>) * scale_at(scale) + scale_at(scale + 2);
  }
};

}  // namespace longhaul::cpu::LONGHAUL_ISA
