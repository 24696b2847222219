// embed, rms_norm, head_norm, rope, silu_mul, append: bound by memory, packs of 16 bytes, float32 inside, one rounding
// at the end.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/forms.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMostBlocks = 16384;  // the rest of the work comes by grid stride

unsigned blocks_for(std::int64_t items) {
  const std::int64_t blocks = ceil_div(items, kThreads);
  return static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

/// At the start of a kernel that keeps nothing from the one before.
__device__ void begin() {
  let_next_start();
  wait_for_previous();
}

__device__ std::int64_t first_item() { return std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ std::int64_t item_stride() { return std::int64_t{gridDim.x} * blockDim.x; }

/// A block per token.
template <class T, int N>
__global__ void embed_rows(const __grid_constant__ EmbedArgs a, int* fault) {
  begin();
  const std::int64_t t = blockIdx.x;
  const std::int32_t id = a.ids[t];
  if (id < 0 || id >= a.vocab) {
    if (threadIdx.x == 0) *fault = kTokenOutsideVocabulary;
    return;
  }
  const bf16* row = a.table + id * a.hidden;
  T* out = static_cast<T*>(a.out) + t * a.hidden;
  for (std::int64_t i = threadIdx.x * N; i < a.hidden; i += blockDim.x * N) store<N>(out + i, load<N>(row + i));
}

/// Sum over the block; every thread gets it.
__device__ float block_sum(float x) {
  __shared__ float parts[32];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  if (lane == 0) parts[warp] = x;
  __syncthreads();
  x = lane < warps ? parts[lane] : 0.0f;
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

/// A block per token. Like the reference implementations, a bf16 row is rounded before the gain too. A thread's first
/// pack, as a rule its only one, stays in registers.
template <class T, int N>
__global__ void rms_norm_rows(const __grid_constant__ RmsNormArgs a) {
  let_next_start();
  const T* x = static_cast<const T*>(a.x) + blockIdx.x * a.hidden;
  T* out = static_cast<T*>(a.out) + blockIdx.x * a.hidden;
  const int first = static_cast<int>(threadIdx.x) * N, step = static_cast<int>(blockDim.x) * N;
  const int hidden = static_cast<int>(a.hidden);
  Pack<float, N> mine = {}, gain = {};
  if (first < hidden) gain = load<N>(a.gain + first);
  wait_for_previous();
  if (first < hidden) mine = load<N>(x + first);
  float squares = 0;
  auto add = [&](const Pack<float, N>& v) {
#pragma unroll
    for (int j = 0; j < N; ++j) squares += v.v[j] * v.v[j];
  };
  add(mine);
#pragma unroll 1
  for (int i = first + step; i < hidden; i += step) add(load<N>(x + i));
  const float factor = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(hidden) + a.eps);
#pragma unroll 1
  for (int i = first; i < hidden; i += step) {
    if (i != first) mine = load<N>(x + i), gain = load<N>(a.gain + i);
#pragma unroll
    for (int j = 0; j < N; ++j) mine.v[j] = widen(narrow<T>(mine.v[j] * factor)) * gain.v[j];
    store<N>(out + i, mine);
  }
}

/// A warp a head, up to 8 elements a lane. Rounded as rms_norm rounds.
template <class T>
__global__ void head_norm_rows(const __grid_constant__ HeadNormArgs a) {
  begin();
  constexpr int N = 4, kPacks = 2;  // head_dim <= 256
  const std::int64_t heads = a.q_heads + a.kv_heads, item = first_item() / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32, d = static_cast<int>(a.head_dim);
  if (item >= a.tokens * heads) return;
  const std::int64_t t = item / heads, h = item % heads;
  T* head = static_cast<T*>(a.qkv) + (t * (heads + a.kv_heads) + h) * d;
  const bf16* gain = h < a.q_heads ? a.q_gain : a.k_gain;
  Pack<float, N> x[kPacks] = {};
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
    if (const int i = (p * 32 + lane) * N; i < d) {
      x[p] = load<N>(head + i);
#pragma unroll
      for (int j = 0; j < N; ++j) squares += x[p].v[j] * x[p].v[j];
    }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(d) + a.eps);
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
    if (const int i = (p * 32 + lane) * N; i < d) {
      const auto g = load<N>(gain + i);
#pragma unroll
      for (int j = 0; j < N; ++j) x[p].v[j] = widen(narrow<T>(x[p].v[j] * factor)) * g.v[j];
      store<N>(head + i, x[p]);
    }
}

/// Where a query's form, and a key with form 0, is turned to.
template <bool Chunks>
__device__ std::int64_t turned_to(const RopeArgs& a, int form) {
  const std::int64_t position = a.positions[blockIdx.x];
  if constexpr (!Chunks) return position;
  const std::int64_t place = position % a.chunk;
  return form == 0 ? place : min(form == 1 ? place + a.chunk : 2 * a.chunk - 1, a.reach);
}

/// The blocks of a token (blockIdx.x) share its heads: the angles once for all, of what is older than all that may
/// still run, then each thread turns 4 pairs at a time: of a query, with chunks, to each of its forms.
template <class T, bool Chunks>
__global__ void rope_rows(const __grid_constant__ RopeArgs a) {
  let_next_start();
  constexpr int kMostHalf = 128, N = 4, kTurns = Chunks ? kForms : 1;
  __shared__ alignas(16) float cosine[kTurns][kMostHalf], sine[kTurns][kMostHalf];
  const int half = static_cast<int>(a.head_dim / 2), packs = half / N;
  const int items = static_cast<int>(a.q_heads + a.kv_heads) * packs, step = static_cast<int>(gridDim.y * blockDim.x);
  T* row = static_cast<T*>(a.qkv) + blockIdx.x * (a.q_heads + 2 * a.kv_heads) * a.head_dim;
  int item = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  auto place = [&] { return item / packs * 2 * half + item % packs * N; };
  const float scale = a.scales == nullptr ? a.scale : a.scale * a.scales[blockIdx.x];
#pragma unroll
  for (int form = 0; form < kTurns; ++form) {
    const float position = static_cast<float>(turned_to<Chunks>(a, form));
    for (int i = static_cast<int>(threadIdx.x); i < half; i += static_cast<int>(blockDim.x)) {
      // Whole turns are taken off in double: sine and cosine of a large angle are slow.
      constexpr double kTurn = 6.283185307179586477;
      const double angle = position * a.inv_freq[blockIdx.x * a.freq_stride + i];
      float s, c;
      sincosf(static_cast<float>(angle - rint(angle * (1 / kTurn)) * kTurn), &s, &c);
      cosine[form][i] = c * scale;
      sine[form][i] = s * scale;
    }
  }
  wait_for_previous();
  Pack<float, N> low = {}, high = {};
  if (item < items) low = load<N>(row + place()), high = load<N>(row + place() + half);
  __syncthreads();
  while (item < items) {
    const int i = item % packs * N;
    auto turn = [&](int form, T* to) {
      const auto c = load<N>(cosine[form] + i), s = load<N>(sine[form] + i);
      Pack<float, N> x, y;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        x.v[j] = low.v[j] * c.v[j] - high.v[j] * s.v[j];
        y.v[j] = high.v[j] * c.v[j] + low.v[j] * s.v[j];
      }
      store<N>(to, x);
      store<N>(to + half, y);
    };
    if (Chunks && item / packs < a.q_heads) {
      T* older = static_cast<T*>(a.older) + blockIdx.x * a.q_heads * a.head_dim + place();
#pragma unroll
      for (int form = 1; form < kTurns; ++form) turn(form, older + (form - 1) * a.form_stride);
    }
    turn(0, row + place());
    item += step;
    if (item < items) low = load<N>(row + place()), high = load<N>(row + place() + half);
  }
}

/// x / (1 + exp(-x)); good to bf16 where that is what it is rounded to.
template <class T>
__device__ float silu(float x) {
  if constexpr (sizeof(T) == 2) return __fdividef(x, 1.0f + exp2_fast(-1.44269504f * x));
  else return x / (1.0f + expf(-x));
}

template <class T, int N>
__global__ void silu_mul_rows(const __grid_constant__ SiluMulArgs a) {
  begin();
  const std::int64_t packs = a.inter / N;
  for (std::int64_t item = first_item(); item < a.tokens * packs; item += item_stride()) {
    const std::int64_t t = item / packs, i = item % packs * N;
    const T* row = static_cast<const T*>(a.gate_up) + t * 2 * a.inter + i;
    const auto gate = load<N>(row), up = load<N>(row + a.inter);
    Pack<float, N> y;
#pragma unroll
    for (int j = 0; j < N; ++j) y.v[j] = silu<T>(gate.v[j]) * up.v[j];
    store<N>(static_cast<T*>(a.out) + t * a.inter + i, y);
  }
}

/// Bytes only: 16 a thread. A KV row is `width` packs of K, then of V.
__global__ void append_rows(const __grid_constant__ AppendArgs a, std::int64_t width) {
  begin();
  const auto* qkv = static_cast<const uint4*>(a.qkv);
  for (std::int64_t item = first_item(); item < a.tokens * a.kv_heads * 2 * width; item += item_stride()) {
    const std::int64_t i = item % width, part = item / width % 2, h = item / (2 * width) % a.kv_heads;
    const std::int64_t t = item / (2 * width * a.kv_heads);
    const std::int64_t from = t * (a.q_heads + 2 * a.kv_heads) + a.q_heads + part * a.kv_heads + h;
    auto* row = reinterpret_cast<uint4*>(a.dst.data + h * a.dst.head_stride) + t * 2 * width;
    row[part * width + i] = qkv[from * width + i];
  }
}

unsigned threads_for(std::int64_t items) {
  return static_cast<unsigned>(items >= 512 ? 512 : round_up(items < 1 ? 1 : items, 32));
}

}  // namespace

void embed(const EmbedArgs& a, int* fault, cudaStream_t stream) {
  if (a.tokens == 0) return;
  with_type(a.act, [&]<class T>(T) {
    with_pack(a.hidden, [&]<int N>(std::integral_constant<int, N>) {
      Launch{.grid = static_cast<unsigned>(a.tokens),
             .block = threads_for(a.hidden / N),
             .stream = stream,
             .overlap = true}(embed_rows<T, N>, a, fault);
    });
  });
}

void rms_norm(const RmsNormArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  with_type(a.act, [&]<class T>(T) {
    with_pack(a.hidden, [&]<int N>(std::integral_constant<int, N>) {
      Launch{.grid = static_cast<unsigned>(a.tokens),
             .block = threads_for(a.hidden / N),
             .stream = stream,
             .overlap = true}(rms_norm_rows<T, N>, a);
    });
  });
}

void head_norm(const HeadNormArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  const std::int64_t threads = a.tokens * (a.q_heads + a.kv_heads) * 32;
  with_type(a.act, [&]<class T>(T) {
    Launch{.grid = static_cast<unsigned>(ceil_div(threads, kThreads)),
           .block = kThreads,
           .stream = stream,
           .overlap = true}(head_norm_rows<T>, a);
  });
}

void rope(const RopeArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  // Few tokens leave room for more blocks, so that a thread has one item.
  const std::int64_t items = (a.q_heads + a.kv_heads) * a.head_dim / 8;
  const bool few = a.tokens <= kDecodeTokens;
  with_type(a.act, [&]<class T>(T) {
    Launch{.grid = {static_cast<unsigned>(a.tokens), few ? static_cast<unsigned>(ceil_div(items, kThreads)) : 1},
           .block = few ? kThreads : threads_for(items),
           .stream = stream,
           .overlap = true}(a.chunk > 0 ? rope_rows<T, true> : rope_rows<T, false>, a);
  });
}

void silu_mul(const SiluMulArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  with_type(a.act, [&]<class T>(T) {
    with_pack(a.inter, [&]<int N>(std::integral_constant<int, N>) {
      Launch{.grid = blocks_for(a.tokens * a.inter / N), .block = kThreads, .stream = stream, .overlap = true}(
          silu_mul_rows<T, N>, a);
    });
  });
}

void append(const AppendArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  const std::int64_t width = a.head_dim * size_of(a.act) / 16;
  Launch{.grid = blocks_for(a.tokens * a.kv_heads * 2 * width), .block = kThreads, .stream = stream, .overlap = true}(
      append_rows, a, width);
}

}  // namespace longhaul::cuda
