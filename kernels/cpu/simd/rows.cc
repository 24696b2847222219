#include "kernels/cpu/simd/rows.h"

#include "kernels/cpu/simd/vec.h"

namespace longhaul::cpu::LONGHAUL_ISA {
namespace {

constexpr int W = kLanes;

}  // namespace

void widen(const bf16* x, float* out, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + W <= n; i += W) store<W>(out + i, load<W>(x + i));
  for (; i < n; ++i) store<1>(out + i, load<1>(x + i));
}

void narrow(const float* x, bf16* out, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + W <= n; i += W) store<W>(out + i, load<W>(x + i));
  for (; i < n; ++i) store<1>(out + i, load<1>(x + i));
}

void rms_norm(const float* x, const bf16* gain, float* out, std::int64_t n, float eps, bool round) {
  F<W> acc[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    for (int j = 0; j < 4; ++j) acc[j] += load<W>(x + i + j * W) * load<W>(x + i + j * W);
  float total = sum<W>((acc[0] + acc[1]) + (acc[2] + acc[3]));
  for (; i < n; ++i) total += x[i] * x[i];
  const float factor = 1.0f / __builtin_sqrtf(total / static_cast<float>(n) + eps);
  auto step = [&]<int N>(std::int64_t at) {
    F<N> v = load<N>(x + at) * factor;
    store<N>(out + at, (round ? round_to_bf16<N>(v) : v) * load<N>(gain + at));
  };
  for (i = 0; i + W <= n; i += W) step.template operator()<W>(i);
  for (; i < n; ++i) step.template operator()<1>(i);
}

void silu_mul(const float* gate, const float* up, float* out, std::int64_t n) {
  auto step = [&]<int N>(std::int64_t at) {
    F<N> g = load<N>(gate + at);
    F<N> e = g < -88.0f ? splat<N>(__builtin_inff()) : exp<N>(-g);
    store<N>(out + at, g / (1.0f + e) * load<N>(up + at));
  };
  std::int64_t i = 0;
  for (; i + W <= n; i += W) step.template operator()<W>(i);
  for (; i < n; ++i) step.template operator()<1>(i);
}

void rotate(float* x, const float* cosine, const float* sine, std::int64_t half) {
  auto step = [&]<int N>(std::int64_t at) {
    F<N> a = load<N>(x + at), b = load<N>(x + half + at), c = load<N>(cosine + at), s = load<N>(sine + at);
    store<N>(x + at, a * c - b * s);
    store<N>(x + half + at, b * c + a * s);
  };
  std::int64_t i = 0;
  for (; i + W <= half; i += W) step.template operator()<W>(i);
  for (; i < half; ++i) step.template operator()<1>(i);
}

void scale(const float* x, float factor, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * factor;
}

void blend(float* into, float a, const float* from, float b, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) into[i] = into[i] * a + from[i] * b;
}

void add_sizes(const float* x, float factor, float* sums, float* sizes, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    sums[i] += x[i];
    sizes[i] += factor * __builtin_fabsf(x[i]);
  }
}

}  // namespace longhaul::cpu::LONGHAUL_ISA
