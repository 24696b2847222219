// moments: Gram matrices and sums over tokens for offline calibration. A block of threads owns its part of the sums and
// walks all tokens in order, so that the result is the same every time; float32 over 512 tokens, double over those.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;  // 16 x 16; a thread has 4 x 4 of the tile
constexpr int kTile = 64;
constexpr int kTokens = 32;  // in shared memory at a time
constexpr std::int64_t kSlab = 512;

/// Channels [first, first + 64) of tokens [t0, t0 + 32) of the vectors at x, zeros beyond.
template <class T>
__device__ void load_tile(float* tile, const T* x, std::int64_t width, std::int64_t t0, std::int64_t tokens, int first,
                          int d) {
  const int t = threadIdx.x / 8, c = threadIdx.x % 8 * 8;
  Pack<float, 8> v = {};
  if (t0 + t < tokens && first + c < d) v = load<8>(x + (t0 + t) * width + first + c);
  store<8>(tile + t * kTile + c, v);
}

/// Of the keys (z = 0) or the group's queries (z = 1) of KV head blockIdx.y: a 64 x 64 tile of the sum of x x^T.
template <class T>
__global__ void __launch_bounds__(kThreads) add_gram(const __grid_constant__ MomentsArgs a) {
  __shared__ alignas(16) float left[kTokens * kTile], right[kTokens * kTile];
  const int d = static_cast<int>(a.head_dim), tiles = (d + kTile - 1) / kTile;
  const int rows = blockIdx.x / tiles * kTile, columns = blockIdx.x % tiles * kTile;
  const int tx = threadIdx.x % 16 * 4, ty = threadIdx.x / 16 * 4;
  const std::int64_t h = blockIdx.y, group = a.q_heads / a.kv_heads, width = (a.q_heads + 2 * a.kv_heads) * d;
  const bool queries = blockIdx.z == 1;
  const T* x = static_cast<const T*>(a.qkv) + (queries ? h * group : a.q_heads + h) * d;
  double sums[4][4] = {};
  for (std::int64_t g = 0; g < (queries ? group : 1); ++g, x += d)
    for (std::int64_t slab = 0; slab < a.tokens; slab += kSlab) {
      const std::int64_t end = min(slab + kSlab, a.tokens);
      float part[4][4] = {};
      for (std::int64_t t0 = slab; t0 < end; t0 += kTokens) {
        __syncthreads();  // the tiles before have been read
        load_tile(left, x, width, t0, end, rows, d);
        load_tile(right, x, width, t0, end, columns, d);
        __syncthreads();
#pragma unroll 8
        for (int t = 0; t < kTokens; ++t) {
          const auto l = load<4>(left + t * kTile + ty), r = load<4>(right + t * kTile + tx);
#pragma unroll
          for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) part[i][j] += l.v[i] * r.v[j];
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += part[i][j];
    }
  double* out = a.sums + h * moment_doubles(d) + (queries ? d * d : 0);
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (rows + ty + i < d && columns + tx + j < d) out[(rows + ty + i) * d + columns + tx + j] += sums[i][j];
}

constexpr int kChannels = 32, kTurns = 16;  // of a block: channels, and tokens side by side

/// The sums of k, |k|, |q| and |q k| of 32 channels of KV head blockIdx.y.
template <class T>
__global__ void __launch_bounds__(kChannels* kTurns) add_sums(const __grid_constant__ MomentsArgs a) {
  __shared__ double parts[4][kTurns][kChannels];
  const std::int64_t h = blockIdx.y, d = a.head_dim, group = a.q_heads / a.kv_heads;
  const std::int64_t c = blockIdx.x * kChannels + threadIdx.x, width = (a.q_heads + 2 * a.kv_heads) * d;
  const T *k = static_cast<const T*>(a.qkv) + (a.q_heads + h) * d + c,
          *q = static_cast<const T*>(a.qkv) + h * group * d + c;
  double sums[4] = {};
  if (c < d)
    for (std::int64_t t = threadIdx.y; t < a.tokens; t += kTurns) {
      const double key = widen(k[t * width]);
      sums[0] += key, sums[1] += fabs(key);
      for (std::int64_t g = 0; g < group; ++g) {
        const double query = widen(q[t * width + g * d]);
        sums[2] += fabs(query), sums[3] += fabs(query * key);
      }
    }
  for (int i = 0; i < 4; ++i) parts[i][threadIdx.y][threadIdx.x] = sums[i];
  __syncthreads();
  const int i = threadIdx.y;
  double* out = a.sums + h * moment_doubles(d) + 2 * d * d;
  if (i < 4 && c < d) {
    double sum = 0;
    for (int turn = 0; turn < kTurns; ++turn) sum += parts[i][turn][threadIdx.x];
    out[i * d + c] += sum;
  }
  if (c == 0 && i == 4) out[4 * d] += static_cast<double>(a.tokens);
}

}  // namespace

void moments(const MomentsArgs& a, cudaStream_t stream) {
  if (a.tokens == 0) return;
  const auto tiles = static_cast<unsigned>(ceil_div(a.head_dim, kTile)), heads = static_cast<unsigned>(a.kv_heads);
  with_type(a.act, [&]<class T>(T) {
    Launch{.grid = {tiles * tiles, heads, 2}, .block = kThreads, .stream = stream}(add_gram<T>, a);
    Launch{.grid = {static_cast<unsigned>(ceil_div(a.head_dim, kChannels)), heads},
           .block = {kChannels, kTurns},
           .stream = stream}(add_sums<T>, a);
  });
}

}  // namespace longhaul::cuda
