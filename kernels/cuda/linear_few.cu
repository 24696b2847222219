// linear for at most kDecodeTokens tokens in bf16: the weights are read once, through rings in shared memory that keep
// many loads in flight, into tensor-core products of 16 weight rows by 8 tokens. A block per processor; its eight warps
// share a block of rows and split the sums: warp w takes the stretches w, w + 8, ... of 128 weights, each by its own
// ring, and the eight parts are added in order. So a token's bits depend neither on the other tokens nor on how many
// they are. x stays in shared memory where it fits, or else comes along in the rings. The first weights are asked for
// before the kernel before this one has ended. More than half of a processor's shared memory is used, so that no
// processor gets two blocks and another none when blocks start as those of the kernel before end.
//
// The time that reading the weights takes at the rate of a large read (4.64 TB/s) over the time taken, calls in a CUDA
// graph, weights not in a cache; in brackets cuBLASLt 13.0, its heuristic's first choice (H200):
//   tokens  4096 -> 6144  4096 -> 4096  4096 -> 28672  14336 -> 4096  4096 -> 128256, float32 out
//        1  0.87 (0.68)   0.80 (0.59)   0.96 (0.93)    0.92 (0.82)    0.98 (0.95)
//        4  0.84 (0.71)   0.76 (0.59)   0.95 (0.93)    0.90 (0.82)    0.96 (0.94)
//        8  0.83 (0.72)   0.74 (0.58)   0.94 (0.92)    0.89 (0.81)    0.94 (0.93)
//       16  0.72 (0.71)   0.68 (0.57)   0.88 (0.91)    0.85 (0.80)    0.91 (0.92)
//       32  0.55 (0.69)   0.59 (0.56)   0.72 (0.83)    0.70 (0.77)    0.74 (0.88)
//       64  0.43 (0.69)   0.46 (0.62)   0.59 (0.84)    0.61 (0.73)    0.60 (0.82)
// Past 16 tokens cuBLASLt is ahead, but its sums depend on the number of tokens.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/tiles.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kStretch = 128;  // weights of a row that a warp takes in turn
constexpr int kTileRows = 16, kTileTokens = 8;

constexpr std::int64_t kMostKept = 64 << 10;  // bytes of x

template <int kTokenTiles>
struct Shape {
  static constexpr int kRowTiles = kTokenTiles == 1 ? 1 : 2;
  static constexpr int kStages = kTokenTiles <= 2 ? 4 : kTokenTiles == 4 ? 3 : 2;
  static constexpr int kWidth = kTokenTiles == 1 ? kStretch : kStretch / 2;  // of a stage: all or half of a stretch
  static constexpr int kTokens = kTokenTiles * kTileTokens, kRows = kRowTiles * kTileRows, kChunks = kWidth / 8;
  static constexpr int kStageBytes = kRows * kWidth * 2, kRingBytes = kWarps * kStages * kStageBytes;
  static constexpr int kPartsBytes = kWarps * kTokens * (kTileRows + 1) * 4;
};

/// Where a row's chunk of 16 bytes lies in a stage: so that eight lanes, two rows by four chunks, read all banks.
template <int kChunks>
__device__ std::uint32_t chunk_at(std::uint32_t stage, int row, int chunk) {
  return stage + static_cast<std::uint32_t>(row * kChunks + (chunk ^ (row & 1) << 2)) * 16;
}
__device__ uint4 load_chunk(std::uint32_t at) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(at)
               : "memory");
  return x;
}

/// `steps`: of a block of rows; `slots`: how many steps' x a warp has room for, all of its own or those of its stages.
template <class Out, int kTokenTiles>
__global__ void __launch_bounds__(kThreads) linear_rows(const __grid_constant__ LinearArgs a, int steps, int slots) {
  using S = Shape<kTokenTiles>;
  constexpr int kRowTiles = S::kRowTiles, kChunks = S::kChunks, kHalves = kStretch / S::kWidth;
  extern __shared__ uint4 shared[];
  auto* parts = reinterpret_cast<float(*)[S::kTokens][kTileRows + 1]>(shared + S::kRingBytes / 16);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, column = lane % 4;
  const auto in = static_cast<int>(a.in), tokens = static_cast<int>(a.tokens), slot_bytes = tokens * S::kWidth * 2;
  const auto start = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const std::uint32_t ring = start + warp * S::kStages * S::kStageBytes;
  const std::uint32_t kept = start + S::kRingBytes + S::kPartsBytes + warp * slots * slot_bytes;
  const std::int64_t blocks = (a.out_dim + S::kRows - 1) / S::kRows;
  const bool keep = slots == steps;

  struct Place {
    std::int64_t block;
    int step, stage;
    __device__ void advance(int steps) {
      stage = stage + 1 == S::kStages ? 0 : stage + 1;
      if (++step == steps) step = 0, block += gridDim.x;
    }
  };
  auto first_of = [&](const Place& p) {
    return (p.step / kHalves * kWarps + warp) * kStretch + p.step % kHalves * S::kWidth + lane % kChunks * 8;
  };
  auto ask_weights = [&](const Place& p) {
    const int k = first_of(p);
    if (p.block >= blocks) return;
#pragma unroll
    for (int i = 0; i < S::kRows * kChunks / 32; ++i) {
      const int r = lane / kChunks + i * (32 / kChunks);
      const std::int64_t o = p.block * S::kRows + r;
      copy_async(chunk_at<kChunks>(ring + p.stage * S::kStageBytes, r, lane % kChunks), a.w + o * in + k,
                 k < in && o < a.out_dim);
    }
  };
  auto ask_x = [&](const Place& p) {
    const int k = first_of(p);
    if (p.block < blocks && (!keep || p.block == blockIdx.x))
      for (int t = lane / kChunks; t < tokens; t += 32 / kChunks)
        copy_async(chunk_at<kChunks>(kept + (keep ? p.step : p.stage) * slot_bytes, t, lane % kChunks),
                   static_cast<const bf16*>(a.x) + std::int64_t{t} * in + k, k < in);
    commit_async();
  };
  // What is asked for runs kStages - 1 steps ahead of what is multiplied, over the ends of blocks.
  Place now{blockIdx.x, 0, 0}, ahead = now;
  for (int i = 1; i < S::kStages; ++i) ask_weights(ahead), ahead.advance(steps);
  let_next_start();
  wait_for_previous();
  ahead = now;
  for (int i = 1; i < S::kStages; ++i) ask_x(ahead), ahead.advance(steps);

  while (now.block < blocks) {
    const std::int64_t block = now.block;
    float sum[kRowTiles][kTokenTiles][4] = {};
    do {
      wait_async<S::kStages - 2>();
      __syncwarp();  // all lanes' copies have landed, and the stage before has been read
      ask_weights(ahead), ask_x(ahead), ahead.advance(steps);
      const std::uint32_t weights = ring + now.stage * S::kStageBytes;
      const std::uint32_t x_slot = kept + (keep ? now.step : now.stage) * slot_bytes;
#pragma unroll
      for (int s = 0; s < S::kWidth / 32; ++s) {
        uint4 x[kTokenTiles];
#pragma unroll
        for (int t = 0; t < kTokenTiles; ++t) {
          const int token = t * kTileTokens + row;  // past the tokens anything does: its sums are not used
          x[t] = load_chunk(chunk_at<kChunks>(x_slot, token < tokens ? token : 0, s * 4 + column));
        }
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          // Which 16 weights a lane's words stand for does not matter, as long as weights and tokens agree.
          const uint4 u = load_chunk(chunk_at<kChunks>(weights, r * kTileRows + row, s * 4 + column));
          const uint4 v = load_chunk(chunk_at<kChunks>(weights, r * kTileRows + row + 8, s * 4 + column));
#pragma unroll
          for (int t = 0; t < kTokenTiles; ++t) {
            mma_bf16(sum[r][t], u.x, v.x, u.y, v.y, x[t].x, x[t].y);
            mma_bf16(sum[r][t], u.z, v.z, u.w, v.w, x[t].z, x[t].w);
          }
        }
      }
      now.advance(steps);
    } while (now.step != 0);

    const int pair = column * 2;  // of a lane's sums: rows row, row + 8; tokens pair, pair + 1
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) parts[warp][t * kTileTokens + pair + i % 2][row + i / 2 * 8] = sum[r][t][i];
      __syncthreads();
      for (int item = threadIdx.x; item < tokens * kTileRows; item += kThreads) {
        const int t = item / kTileRows, i = item % kTileRows;
        const std::int64_t o = block * S::kRows + r * kTileRows + i;
        if (o >= a.out_dim) continue;
        float y = parts[0][t][i];
#pragma unroll
        for (int p = 1; p < kWarps; ++p) y += parts[p][t][i];
        if (a.bias != nullptr) y += widen(a.bias[o]);
        Out& out = static_cast<Out*>(a.out)[t * a.out_dim + o];
        out = narrow<Out>(a.accumulate ? widen(out) + y : y);
      }
      __syncthreads();
    }
  }
}

}  // namespace

bool linear_few(const LinearArgs& a, int processors, cudaStream_t stream) {
  if (a.tokens > kDecodeTokens || a.in % 8 != 0) return false;
  if (a.tokens == 0) return true;
  auto launch = [&]<int kTokenTiles>(std::integral_constant<int, kTokenTiles>) {
    with_type(a.out_type, [&]<class Out>(Out) {
      using S = Shape<kTokenTiles>;
      const std::int64_t blocks = ceil_div(a.out_dim, S::kRows);
      const auto steps = static_cast<int>(ceil_div(a.in, kStretch * kWarps)) * (kStretch / S::kWidth);
      const std::int64_t step_bytes = kWarps * a.tokens * S::kWidth * 2;  // of x
      const int slots = steps * step_bytes <= kMostKept ? steps : S::kStages;
      Launch{.grid = static_cast<unsigned>(blocks < processors ? blocks : processors),
             .block = kThreads,
             .shared_bytes = static_cast<std::size_t>(S::kRingBytes + S::kPartsBytes + slots * step_bytes),
             .stream = stream,
             .overlap = true}(linear_rows<Out, kTokenTiles>, a, steps, slots);
    });
  };
  if (a.tokens <= 8) launch(std::integral_constant<int, 1>{});
  else if (a.tokens <= 16) launch(std::integral_constant<int, 2>{});
  else if (a.tokens <= 32) launch(std::integral_constant<int, 4>{});
  else launch(std::integral_constant<int, 8>{});
  return true;
}

}  // namespace longhaul::cuda
