// Queries in the basis of the labels, as the operands that their products with codes take: by a block, for the heads
// that it has. Device code only.
#pragma once
#include "kernels/cuda/forms.cuh"
#include "kernels/cuda/label_products.cuh"
#include "kernels/cuda/labels.cuh"

namespace longhaul::cuda::labels {

/// A thread's part of a head's query map, which is older than all that may still run: 16 threads share a dimension.
template <int K, int Threads>
struct MapPart {
  static constexpr int kLanes = 16, kPairs = 256 / 2 / kLanes;                // of two elements
  static constexpr int kAtOnce = Threads / kLanes, kEach = 32 * K / kAtOnce;  // dimensions
  float2 map[kEach][kPairs];
  float step[kEach];

  __device__ void load(const SelectArgs& a, int slot, int h) {
    const int t = static_cast<int>(threadIdx.x), d = static_cast<int>(a.head_dim);
    const LabelBasis basis = basis_of(a.labels, slot, h, d);
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int j = k * kAtOnce + t / kLanes;
      const bool is = j < static_cast<int>(a.labels.dims);
      step[k] = is ? basis.step[j] : 0.0f;
#pragma unroll
      for (int p = 0; p < kPairs; ++p) {
        const int c = (p * kLanes + t % kLanes) * 2;
        map[k][p] = is && c < d ? *reinterpret_cast<const float2*>(basis.query_map + j * d + c) : float2{0, 0};
      }
    }
  }
};

// With one base for all rows of a head, which its query alone gives, a power of 2 is taken once, whatever the maximum
// turns out to be: no score is more than kBaseTop above the base, so a sum of 2^27 is finite, and where scores range no
// further than kBaseRange, those that have any part of the softmax are normal numbers.
constexpr float kBaseTop = 90, kBaseRange = 190;

template <int K, int Quads>
struct WeighSpace {
  float q[4 * Quads][256];
  float weights[4 * Quads][32 * K];
};

/// Weights as two signed bytes each, 15 bits and a sign of the largest of a query; zeros and not a number where a
/// weight is not finite. By a warp.
template <int K, int Quads>
__device__ void split_weights(const float* weights, int g, bool softmax, HeadWeights& out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float w[K], top = 0;
  bool finite = true;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    w[k] = weights[k * 32 + lane];
    top = fmaxf(top, fabsf(w[k]));
    finite = finite && fabsf(w[k]) < 0x1p110f;
  }
  finite = __all_sync(~0u, finite);
  top = finite ? __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(top))) : 0.0f;
  // Of the largest no more than 127 * 256 + 127 units; and units that scores are not below normal numbers in.
  const int exponent = ilogbf(fmaxf(top * 1.00396f, 0x1p-90f)) + 1;
  const float scale = __int_as_float((127 + kWeightExponent - exponent) << 23);
  auto* bytes = reinterpret_cast<signed char*>(out.b);
  int most = 0, least = 0;  // that 15 may be multiplied with
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int x = finite ? __float2int_rn(w[k] * scale) : 0, high = (x + 128) >> 8;
    most += max(x, 0), least += min(x, 0);
    const int word = (g / 4 * K + k) * 2 + lane / 16, element = lane % 16 / 8 * 2 + lane % 2;
    auto at = [&](int column) { return ((column * 4 + lane % 8 / 2) * Shape<K, Quads>::kWords + word) * 4 + element; };
    bytes[at(g % 4 * 2)] = static_cast<signed char>(high);
    bytes[at(g % 4 * 2 + 1)] = static_cast<signed char>(x - high * 256);
  }
  const float unit = __int_as_float((127 + exponent - kWeightExponent) << 23);
  const float factor = !finite ? NAN : softmax ? unit * kLog2e : unit;
  most = __reduce_add_sync(~0u, most) * 15, least = __reduce_add_sync(~0u, least) * 15;
  if (lane != 0) return;
  out.factor[g] = factor;
  out.base[g] =
      static_cast<float>(most - least) * factor > kBaseRange ? INFINITY : static_cast<float>(most) * factor - kBaseTop;
}

/// What all rows' scores with this form of a query lack besides those with its first: the part that labels leave out,
/// on average (TailFit::beside), is another. By a warp; `q`: the form in the weights' units.
__device__ inline float form_offset(const Selection& s, int place, int h, int g, const float* q) {
  const SelectArgs& a = s.a;
  const int lane = static_cast<int>(threadIdx.x) % 32, d = static_cast<int>(a.head_dim);
  const TailFit fit =
      tail_fit(a.labels.basis + a.batch.spans[place].slot * a.labels.basis_stride, a.kv_heads, d, a.labels.dims);
  const std::int64_t at = place * a.q_stride + (h * s.group + g) * d;
  float sum = 0;
  for (int c = lane; g < s.group && c < d; c += 32) {
    const float own =
        a.act == DType::bf16 ? widen(static_cast<const bf16*>(a.q)[at + c]) : static_cast<const float*>(a.q)[at + c];
    sum += (q[c] - own * a.scale) * fit.beside[h * d + c];
  }
#pragma unroll
  for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(~0u, sum, o);
  return s.softmax ? sum * kLog2e : sum;
}

/// A thread's part of a head's queries in one form.
template <int Quads, int Threads>
struct QueryPart {
  static constexpr int kEach = 4 * Quads * 256 / Threads;
  float x[kEach];

  __device__ void load(const Selection& s, int place, int h, int form) {
    const SelectArgs& a = s.a;
    const int t = static_cast<int>(threadIdx.x), d = static_cast<int>(a.head_dim), group = static_cast<int>(s.group);
    const std::int64_t from = form > 0 ? (form - 1) * a.forms.form_stride + (place * a.q_heads + h * group) * d
                                       : place * a.q_stride + static_cast<std::int64_t>(h * group) * d;
    const void* const q = form > 0 ? a.forms.older : a.q;
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      const int g = (n * Threads + t) / 256, c = t % 256;
      x[n] = 0;
      if (g < group && c < d)
        x[n] = a.act == DType::bf16 ? widen(static_cast<const bf16*>(q)[from + g * d + c])
                                    : static_cast<const float*>(q)[from + g * d + c];
    }
  }
};

/// By the whole block, which meets before and after; `load_next` asks for what comes after this. Without `Forms` of
/// form 0, which needs no offset.
template <int K, int Quads, int Threads, bool Forms, class LoadNext>
__device__ void weigh_queries(const Selection& s, int place, int h, int form, const MapPart<K, Threads>& part,
                              const QueryPart<Quads, Threads>& queries, WeighSpace<K, Quads>& space, HeadWeights& out,
                              LoadNext load_next) {
  using Part = MapPart<K, Threads>;
  constexpr int kQueries = 4 * Quads, kLanes = Part::kLanes;
  static_assert(kQueries * 32 <= Threads);
  const int t = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int n = 0; n < QueryPart<Quads, Threads>::kEach; ++n)
    space.q[(n * Threads + t) / 256][t % 256] = queries.x[n] * s.a.scale;
  __syncthreads();
  load_next();
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
    float sum[Part::kEach] = {};
#pragma unroll
    for (int p = 0; p < Part::kPairs; ++p) {
      const float2 x = *reinterpret_cast<const float2*>(&space.q[g][(p * kLanes + t % kLanes) * 2]);
#pragma unroll
      for (int k = 0; k < Part::kEach; ++k) sum[k] = fmaf(part.map[k][p].y, x.y, fmaf(part.map[k][p].x, x.x, sum[k]));
    }
#pragma unroll
    for (int k = 0; k < Part::kEach; ++k) {
#pragma unroll
      for (int o = kLanes / 2; o > 0; o /= 2) sum[k] += __shfl_xor_sync(~0u, sum[k], o);
      if (t % kLanes == 0) space.weights[g][k * Part::kAtOnce + t / kLanes] = sum[k] * part.step[k];
    }
  }
  __syncthreads();
  if (const int g = t / 32; g < kQueries) {
    split_weights<K, Quads>(space.weights[g], g, s.softmax, out);
    if constexpr (Forms) {
      const float offset = form > 0 ? form_offset(s, place, h, g, space.q[g]) : 0.0f;
      if (t % 32 == 0) out.offset[g] = offset;
    }
  }
  __syncthreads();
}

}  // namespace longhaul::cuda::labels
