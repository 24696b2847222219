// random_fill, replay, checksum: bound by memory.
#include "kernels/base/bytes.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/synthetic_ops.h"
#include "kernels/synthetic.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void fill_random(const __grid_constant__ RandomFillArgs a) {
  T* out = static_cast<T*>(a.out);
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < a.count; i += stride)
    out[i] = narrow<T>(synthetic::random_value(a.seed, static_cast<std::uint64_t>(i), a.mean, a.spread));
}

/// Blocks of x write one head's list between them; y: token and head.
__global__ void replay_lists(const __grid_constant__ ReplayArgs a) {
  const std::int64_t i = blockIdx.y;
  const auto list = synthetic::replayed_list(a, a.batch.spans[i / a.kv_heads], i % a.kv_heads);
  wait_for_previous();
  let_next_start();
  if (blockIdx.x == 0 && threadIdx.x == 0) a.out.count[i] = static_cast<std::int32_t>(list.size());
  std::int32_t* rows = a.out.rows + i * a.out.stride;
  for (std::int64_t j = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; j < list.size();
       j += gridDim.x * blockDim.x)
    rows[j] = list.row(j, a.recall);
}

/// y: KV head.
__global__ void sum_words(const __grid_constant__ ChecksumArgs a) {
  const std::int64_t head = blockIdx.y, words = a.row_bytes / 8, count = a.kv.rows * words;
  const auto* from = reinterpret_cast<const unsigned long long*>(a.kv.data + head * a.kv.head_stride);
  unsigned long long sum = 0;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    sum += synthetic::word_sum(from[i], head, a.kv.first + i / words, i % words);
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x % 32 == 0) atomicAdd(reinterpret_cast<unsigned long long*>(a.sum), sum);
}

}  // namespace

void random_fill(const RandomFillArgs& a, cudaStream_t stream) {
  if (a.count == 0) return;
  constexpr std::int64_t kMostBlocks = 1 << 16;
  const std::int64_t blocks = ceil_div(a.count, kThreads);
  const Launch launch{
      .grid = static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks), .block = kThreads, .stream = stream};
  with_type(a.type, [&](auto type) { launch(fill_random<decltype(type)>, a); });
}

void replay(const ReplayArgs& a, cudaStream_t stream) {
  if (a.batch.count == 0) return;
  const auto lists = static_cast<unsigned>(a.batch.count * a.kv_heads);
  Launch{.grid = {lists < 64 ? 16u : 1u, lists}, .block = kThreads, .stream = stream, .overlap = true}(replay_lists, a);
}

void checksum(const ChecksumArgs& a, cudaStream_t stream) {
  if (a.kv.rows == 0) return;
  constexpr std::int64_t kMostBlocks = 512;
  const std::int64_t blocks = ceil_div(a.kv.rows * a.row_bytes / 8, 8 * kThreads);
  Launch{
      .grid = {static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks), static_cast<unsigned>(a.kv_heads)},
      .block = kThreads,
      .stream = stream}(sum_words, a);
}

}  // namespace longhaul::cuda
