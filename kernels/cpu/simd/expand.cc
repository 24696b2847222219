// Codes of packed weights to bf16, a group at a time.
#include "kernels/cpu/simd/row_types.h"
#include "kernels/cpu/simd/rows.h"

namespace longhaul::cpu::LONGHAUL_ISA {
namespace {

constexpr int W = kLanes;

/// step.operator()<N>(i) for all i, N at a time; what is left of a wide vector is one of 8.
template <class Step>
[[gnu::always_inline]] inline void by_vectors(std::int64_t n, const Step& step) {
  std::int64_t i = 0;
  for (; i + W <= n; i += W) step.template operator()<W>(i);
  for (; i < n; i += 8) step.template operator()<8>(i);
}

/// N codes of 4 bits, in the order of memory: two a byte, the lower half first.
template <int N>
[[gnu::always_inline]] inline F<N> four_bits(const std::byte* at) {
  using U = typename Vec<N>::U;
  const auto b = load_bytes<std::uint8_t, N / 2>(at);
  U codes;
  if constexpr (N == 8)
    codes = widened<N>(__builtin_shufflevector(b, b, 0, 0, 1, 1, 2, 2, 3, 3)) >> U{0, 4, 0, 4, 0, 4, 0, 4};
  else
    codes = widened<N>(__builtin_shufflevector(b, b, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)) >>
            U{0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4};
  return __builtin_convertvector((typename Vec<N>::I)(codes & 15u), F<N>);
}

}  // namespace

void expand_4(const std::byte* codes, std::int64_t n, float step, float zero, float base, bf16* out) {
  by_vectors(n, [&]<int N>(std::int64_t i) { store<N>(out + i, (four_bits<N>(codes + i / 2) - zero) * step - base); });
}

void expand_8(const std::byte* codes, std::int64_t n, float step, bf16* out) {
  by_vectors(n, [&]<int N>(std::int64_t i) {
    const typename Vec<N>::I numbers = widened<N>(load_bytes<std::int8_t, N>(codes + i));
    store<N>(out + i, __builtin_convertvector(numbers, F<N>) * step);
  });
}

void expand_fp8(const std::byte* codes, std::int64_t n, float step, bf16* out) {
  by_vectors(n, [&]<int N>(std::int64_t i) { store<N>(out + i, e4m3<N>(codes + i) * step); });
}

}  // namespace longhaul::cpu::LONGHAUL_ISA
