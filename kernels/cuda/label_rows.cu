// label_rows: keys times the key map, quantised and packed, reading every key once. bf16 keys go through the tensor
// cores: a warp takes a block of 64 rows, the map is split into two bf16 parts so that its products keep 16 bits, and
// rows are dealt to the columns of the fragments so that a thread ends up with whole words of codes.
#include <algorithm>

#include "kernels/base/bytes.h"
#include "kernels/cuda/labels.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

namespace longhaul::cuda {
namespace {

constexpr int kBlock = static_cast<int>(kAttendBlock);

/// The rows of a block that are labelled; others keep their codes.
struct BlockRows {
  int begin, end;  // in [0, 64]
  __device__ BlockRows(const KvTile& kv, std::int64_t block)
      : begin(static_cast<int>(max(kv.first - block * kBlock, std::int64_t{0}))),
        end(static_cast<int>(min(kv.first + kv.rows - block * kBlock, std::int64_t{kBlock}))) {}
  __device__ bool has(int r) const { return r >= begin && r < end; }
  __device__ bool all() const { return begin == 0 && end == kBlock; }
};

/// Ones in the bits of rows [first, first + 8) of `width` bits each that are labelled.
template <int width>
__device__ std::uint64_t row_mask(const BlockRows& rows, int first) {
  std::uint64_t mask = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (rows.has(first + i)) mask |= std::uint64_t{(1u << width) - 1} << (8 * i);
  return mask;
}

__device__ void put(std::uint64_t* at, std::uint64_t codes, std::uint64_t mask) {
  *at = mask == ~std::uint64_t{0} ? codes : (*at & ~mask) | (codes & mask);
}

/// Codes of rows 8q .. 8q + 7 (`low`) and 32 rows on (`high`) in one dimension, into its codes of the block.
__device__ void put_codes(std::byte* codes, int q, const Pack<float, 8>& low, const Pack<float, 8>& high, float zero,
                          float step, std::int64_t bits, const BlockRows& rows) {
  if (bits == 16) {
    auto* out = reinterpret_cast<bf16*>(codes) + 8 * q;
    if (rows.all()) {
      store<8>(out, low);
      store<8>(out + 32, high);
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (rows.has(8 * q + i)) out[i] = narrow<bf16>(low.v[i]);
      if (rows.has(8 * q + i + 32)) out[i + 32] = narrow<bf16>(high.v[i]);
    }
    return;
  }
  const float top = static_cast<float>((1 << bits) - 1), inverse = 1 / step;
  std::uint64_t a = 0, b = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    a |= std::uint64_t{code_of(low.v[i], zero, inverse, top)} << (8 * i);
    b |= std::uint64_t{code_of(high.v[i], zero, inverse, top)} << (8 * i);
  }
  auto* out = reinterpret_cast<std::uint64_t*>(codes) + q;
  if (bits == 4) {
    put(out, a | b << 4, row_mask<4>(rows, 8 * q) | row_mask<4>(rows, 8 * q + 32) << 4);
  } else {
    put(out, a, row_mask<8>(rows, 8 * q));
    put(out + 4, b, row_mask<8>(rows, 8 * q + 32));
  }
}

// --- bf16: mma.sync.m16n8k16, dimensions by rows --------------------------------------------------------------------

constexpr int kWarps = 4;
constexpr int kAtOnce = 3;  // blocks of threads that a multiprocessor holds

__device__ void multiply(float (&c)[4], const uint4& a, unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

__device__ unsigned pair(float x, float y) {
  return narrow<bf16>(x).bits | static_cast<unsigned>(narrow<bf16>(y).bits) << 16;
}
__device__ float rest(float x) { return x - widen(narrow<bf16>(x)); }

/// Dimensions [first, first + 16 * M) of one head as fragments of 16 dimensions by 16 elements, [steps, M, 2, 32]: of
/// the upper bits and of the rest. Lane (g, q) of a warp reads 8 neighbouring elements of a key, 8q of a run of 32:
/// they are its columns of two steps, so the map's columns are dealt likewise. Returns whether a rest is not zero:
/// bases of unit vectors have none.
template <int M>
__device__ bool split_map(uint4* map, const float* key_map, int first, int dims, int d, int steps) {
  bool any = false;
  for (int i = threadIdx.x; i < steps * M * 32; i += kWarps * 32) {
    const int lane = i % 32, dim = first + i / 32 % M * 16 + lane / 4, step = i / 32 / M;
    const int column = step / 2 * 32 + lane % 4 * 8 + step % 2 * 4;
    Pack<float, 4> x = {}, y = {};
    if (column < d && dim < dims) x = load_map(key_map + dim * d + column);
    if (column < d && dim + 8 < dims) y = load_map(key_map + (dim + 8) * d + column);
    const uint4 low = {pair(rest(x.v[0]), rest(x.v[1])), pair(rest(y.v[0]), rest(y.v[1])),
                       pair(rest(x.v[2]), rest(x.v[3])), pair(rest(y.v[2]), rest(y.v[3]))};
    uint4* part = map + i / 32 * 64 + lane;
    part[0] = {pair(x.v[0], x.v[1]), pair(y.v[0], y.v[1]), pair(x.v[2], x.v[3]), pair(y.v[2], y.v[3])};
    part[32] = low;
    any |= ((low.x | low.y | low.z | low.w) & 0x7fff7fffu) != 0;
  }
  return __syncthreads_or(any);
}

/// 16 bytes of global memory to shared memory, zeros where `there` is false; lands with its group. The line's other
/// half, which the next run needs, comes to the L2 cache along with it: 171 us instead of 209 for 256K rows (H200).
__device__ void fetch_16(uint4* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(there ? 16 : 0)
               : "memory");
}
__device__ void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int left>
__device__ void wait_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

constexpr int kTiles = 8;   // of 8 rows, in a block
constexpr int kStages = 3;  // runs of 32 elements of a block's keys under way

/// A block of threads per head and 16 * M dimensions, a warp per block of rows in turn. A lane's loads are for itself
/// alone: shared memory is but their queue, and no one waits for another.
template <int M>
__global__ void __launch_bounds__(kWarps * 32, kAtOnce) label_blocks(const __grid_constant__ LabelRowsArgs a) {
  extern __shared__ uint4 shared[];
  const int d = static_cast<int>(a.head_dim), chunks = (d + 31) / 32, dims = static_cast<int>(a.labels.dims);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int first_dim = blockIdx.z * 16 * M;
  uint4* queue = shared + warp * kStages * kTiles * 32 + lane;  // [stages, tiles, 32]
  uint4* map = shared + kWarps * kStages * kTiles * 32;
  const std::int64_t h = blockIdx.y;
  const LabelBasis basis = basis_of(a.labels, 0, h, d);

  const std::int64_t first_block = a.kv.first / kBlock + std::int64_t{blockIdx.x} * kWarps + warp;
  const std::int64_t stride = std::int64_t{gridDim.x} * kWarps, end = ceil_div(a.kv.first + a.kv.rows, kBlock);
  // Column 2p + e of tile t is row 8p + 2t + e, so that lane (g, q) gets the products of rows 8q .. 8q + 7.
  const int first = g / 2 * 8 + g % 2;
  const auto* head = reinterpret_cast<const bf16*>(a.kv.data + h * a.kv.head_stride) + q * 8;
  std::int64_t coming = first_block;
  int coming_chunk = 0, slot = 0;
  auto fetch = [&] {
    if (coming < end) {
      const BlockRows rows(a.kv, coming);
      const bf16* keys = head + (coming * kBlock - a.kv.first + first) * 2 * d + coming_chunk * 32;
      const bool column = coming_chunk * 32 + q * 8 < d;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const int row = t % 4 * 2 + t / 4 * 32;
        const bool there = column && rows.has(first + row);
        fetch_16(queue + (slot * kTiles + t) * 32, there ? keys + row * 2 * d : head, there);
      }
      if (++coming_chunk == chunks) coming_chunk = 0, coming += stride;
    }
    end_group();
    slot = slot + 1 == kStages ? 0 : slot + 1;
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) fetch();
  const bool both = split_map<M>(map, basis.key_map, first_dim, dims, d, 2 * chunks);

  for (std::int64_t block = first_block; block < end; block += stride) {
    float c[M][kTiles][4] = {};
    for (int chunk = 0; chunk < chunks; ++chunk) {
      fetch();  // into the slot read last
      wait_groups<kStages - 1>();
      uint4 k[kTiles];
#pragma unroll
      for (int t = 0; t < kTiles; ++t) k[t] = queue[(slot * kTiles + t) * 32];
#pragma unroll
      for (int step = 0; step < 2; ++step)
#pragma unroll
        for (int m = 0; m < M; ++m) {
          const uint4* part = map + ((chunk * 2 + step) * M + m) * 64 + lane;
          const uint4 high = part[0];
#pragma unroll
          for (int t = 0; t < kTiles; ++t)
            multiply(c[m][t], high, step == 0 ? k[t].x : k[t].z, step == 0 ? k[t].y : k[t].w);
          if (!both) continue;
          const uint4 low = part[32];
#pragma unroll
          for (int t = 0; t < kTiles; ++t)
            multiply(c[m][t], low, step == 0 ? k[t].x : k[t].z, step == 0 ? k[t].y : k[t].w);
        }
    }
    const BlockRows rows(a.kv, block);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int dim = first_dim + m * 16 + half * 8 + g;
        if (dim >= dims) continue;
        Pack<float, 8> low, high;
#pragma unroll
        for (int i = 0; i < 8; ++i)
          low.v[i] = c[m][i / 2][half * 2 + i % 2], high.v[i] = c[m][i / 2 + 4][half * 2 + i % 2];
        put_codes(codes_of(a.labels, 0, h, block, dim), q, low, high, basis.zero[dim], basis.step[dim], a.labels.bits,
                  rows);
      }
  }
}

/// As many blocks of threads as run at once, so that none is left for a last, short round.
void label_bf16(const LabelRowsArgs& a, cudaStream_t stream) {
  const std::int64_t blocks = ceil_div(a.kv.first + a.kv.rows, kBlock) - a.kv.first / kBlock;
  auto launch = [&]<int M>(std::integral_constant<int, M>) {
    const std::int64_t map = 2 * ceil_div(a.head_dim, 32) * M * 64, queues = kWarps * kStages * kTiles * 32;
    const std::int64_t parts = ceil_div(a.labels.dims, 16 * M), most = ceil_div(blocks, kWarps);
    const std::int64_t share = std::max<std::int64_t>(1, kAtOnce * multiprocessors() / (a.kv_heads * parts));
    Launch{.grid = {static_cast<unsigned>(std::min(most, share)), static_cast<unsigned>(a.kv_heads),
                    static_cast<unsigned>(parts)},
           .block = kWarps * 32,
           .shared_bytes = static_cast<std::size_t>(map + queues) * sizeof(uint4),
           .stream = stream}(label_blocks<M>, a);
  };
  a.labels.dims <= 16 ? launch(std::integral_constant<int, 1>{}) : launch(std::integral_constant<int, 2>{});
}

// --- float32, the correctness mode: a block of threads per block of rows ---------------------------------------------

constexpr int kThreads = 256;

/// A thread has a dimension and 8 rows of either half of the block.
__global__ void __launch_bounds__(kThreads) label_f32_blocks(const __grid_constant__ LabelRowsArgs a) {
  extern __shared__ float4 shared_keys[];
  float* keys = reinterpret_cast<float*>(shared_keys);
  const int d = static_cast<int>(a.head_dim), width = d + 4, dims = static_cast<int>(a.labels.dims);
  const std::int64_t h = blockIdx.y, block = a.kv.first / kBlock + blockIdx.x;
  const BlockRows rows(a.kv, block);
  const auto* from =
      reinterpret_cast<const float*>(a.kv.data + h * a.kv.head_stride) + (block * kBlock - a.kv.first) * 2 * d;
  for (int i = threadIdx.x; i < kBlock * (d / 4); i += kThreads) {
    const int r = i / (d / 4), c = i % (d / 4) * 4;
    Pack<float, 4> x = {};
    if (rows.has(r)) x = load<4>(from + std::int64_t{r} * 2 * d + c);
    store<4>(keys + r * width + c, x);
  }
  __syncthreads();
  const LabelBasis basis = basis_of(a.labels, 0, h, d);
  for (int i = threadIdx.x; i < dims * 4; i += kThreads) {
    const int q = i % 4, j = i / 4;
    Pack<float, 8> low = {}, high = {};
    for (int c = 0; c < d; c += 4) {
      const auto map = load_map(basis.key_map + j * d + c);
#pragma unroll
      for (int r = 0; r < 8; ++r) {
        const auto x = load<4>(keys + (8 * q + r) * width + c), y = load<4>(keys + (8 * q + r + 32) * width + c);
        for (int e = 0; e < 4; ++e) low.v[r] += map.v[e] * x.v[e], high.v[r] += map.v[e] * y.v[e];
      }
    }
    put_codes(codes_of(a.labels, 0, h, block, j), q, low, high, basis.zero[j], basis.step[j], a.labels.bits, rows);
  }
}

void label_f32(const LabelRowsArgs& a, cudaStream_t stream) {
  const std::int64_t blocks = ceil_div(a.kv.first + a.kv.rows, kBlock) - a.kv.first / kBlock;
  Launch{.grid = {static_cast<unsigned>(blocks), static_cast<unsigned>(a.kv_heads)},
         .block = kThreads,
         .shared_bytes = static_cast<std::size_t>(kBlock * (a.head_dim + 4)) * sizeof(float),
         .stream = stream}(label_f32_blocks, a);
}

}  // namespace

void label_rows(const LabelRowsArgs& a, cudaStream_t stream) {
  if (a.kv.rows == 0) return;
  a.act == DType::bf16 ? label_bf16(a, stream) : label_f32(a, stream);
}

}  // namespace longhaul::cuda
