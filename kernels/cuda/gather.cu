// gather: lists are cut into chunks, which blocks take until none is left: the last ones first, whose rows they read
// from the host's memory themselves, or through the ring the first ones first, whose rows host threads have put
// together.
#include <algorithm>
#include <cuda/atomic>

#include "kernels/base/bytes.h"
#include "kernels/cuda/copy_rows.cuh"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

#include <cub/block/block_scan.cuh>

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 512;
constexpr unsigned kLeastRows = 8;  // of a chunk
using Scan = cub::BlockScan<unsigned, kThreads>;
using Word = unsigned long long;

/// A chunk: `count` rows of a list from `first` on.
struct Chunk {
  std::int64_t list, place, head;
  int first, count;
};

struct Shared {
  typename Scan::TempStorage scan;
  unsigned taken;
  unsigned chunk_of_slot[kMostSlotsOfBlock], request[kMostSlotsOfBlock];
  bool silent;
};

/// The lists cut into chunks: ends[i] chunks are in lists 0 to i. No chunk has more rows than rows_of_chunk(); fewer
/// where that gives all blocks equal work.
class Chunks {
 public:
  __device__ Chunks(const GatherArgs& a, unsigned* ends, int* fault, Shared& shared)
      : a_(a), ends_(ends), lists_(static_cast<int>(a.batch.count * a.kv_heads)) {
    unsigned end, all;
    for (int base = 0; base < lists_; base += kThreads) {
      const int list = base + threadIdx.x;
      Scan(shared.scan).InclusiveSum(list < lists_ ? count(list, fault) : 0, end, all);
      all_rows_ += all;
      __syncthreads();
    }
    const unsigned most = rows_of_chunk(a.row_bytes),
                   turns = max(1u, (all_rows_ + gridDim.x * most - 1) / (gridDim.x * most));
    rows_ = max(min(kLeastRows, most), (all_rows_ + gridDim.x * turns - 1) / (gridDim.x * turns));
    for (int base = 0; base < lists_; base += kThreads) {
      const int list = base + threadIdx.x;
      Scan(shared.scan).InclusiveSum(list < lists_ ? (count(list, nullptr) + rows_ - 1) / rows_ : 0, end, all);
      if (list < lists_) ends_[list] = total_ + end;
      total_ += all;
      __syncthreads();
    }
  }
  __device__ unsigned all_rows() const { return all_rows_; }
  __device__ unsigned total() const { return total_; }
  __device__ Chunk operator[](unsigned chunk) const {
    int low = 0, high = lists_ - 1;  // the first list that ends after the chunk
    while (low < high) {
      const int middle = (low + high) / 2;
      if (ends_[middle] > chunk) high = middle;
      else low = middle + 1;
    }
    const auto first = static_cast<int>((chunk - (low == 0 ? 0 : ends_[low - 1])) * rows_);
    return {low, low / a_.kv_heads, low % a_.kv_heads, first,
            min(static_cast<int>(rows_), count(low, nullptr) - first)};
  }
  __device__ int count(int list, int* fault) const {
    const int first = a_.dst_first == nullptr ? 0 : a_.dst_first[list], room = static_cast<int>(a_.dst.rows) - first;
    const int rows = a_.rows.count[list];
    if (rows > room && fault != nullptr) *fault = kRowsDoNotFitStaging;
    return max(0, min(rows, room));
  }

 private:
  const GatherArgs& a_;
  unsigned* ends_;
  int lists_;
  unsigned rows_, all_rows_ = 0, total_ = 0;
};

__device__ const std::byte* source(const GatherArgs& a, const Chunk& c) {  // of row 0
  return a.src.data + c.head * a.src.head_stride + (a.batch.spans[c.place].host_first - a.src.first) * a.row_bytes;
}
__device__ std::byte* destination(const GatherArgs& a, const Chunk& c) {
  const std::int64_t first = (a.dst_first == nullptr ? 0 : a.dst_first[c.list]) + c.first;
  return a.dst.data + c.place * a.dst.session_stride + c.head * a.dst.head_stride + first * a.row_bytes;
}

/// The next chunk, for all threads of the block; total() or more when none is left.
__device__ unsigned take(GatherQueue* queue, bool from_front, unsigned total, Shared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    const Word old = atomicAdd(&queue->taken, from_front ? Word{1} : Word{1} << 32);
    const auto front = static_cast<unsigned>(old), back = static_cast<unsigned>(old >> 32);
    shared.taken = front + back >= total ? total : from_front ? front : total - 1 - back;
  }
  __syncthreads();
  return shared.taken;
}

/// Reads rows from the host's memory: chunks of the queue, or where only such blocks are, every gridDim.x-th.
template <class Unit>
__device__ void read_rows(const GatherArgs& a, const Chunks& chunks, bool alone, GatherQueue* queue, int* fault,
                          Shared& shared) {
  auto next = [&](unsigned turn) {
    return alone ? blockIdx.x + turn * gridDim.x : take(queue, false, chunks.total(), shared);
  };
  for (unsigned i, turn = 0; (i = next(turn)) < chunks.total(); ++turn) {
    const Chunk c = chunks[i];
    const std::int32_t* rows = a.rows.rows + c.list * a.rows.stride + c.first;
    const std::byte* src = source(a, c);
    std::byte* dst = destination(a, c);
    copy_rows<4, Unit>(
        c.count, a.row_bytes, threadIdx.x, kThreads,
        [&](int k) {
          std::int64_t row = rows[k];
          if (row < a.src.first || row >= a.src.first + a.src.rows) *fault = kRowOutsideSource, row = a.src.first;
          return src + row * a.row_bytes;
        },
        [&](int k) { return dst + k * a.row_bytes; }, [](const Unit* at) { return __ldcv(at); });
  }
}

/// Asks the host for a chunk's rows.
__device__ void request(const GatherArgs& a, const Chunks& chunks, const GatherRing& ring, unsigned chunk, int slot,
                        unsigned number, int* fault) {
  const Chunk c = chunks[chunk];
  GatherJob& job = ring.jobs[slot];
  const std::int32_t* rows = a.rows.rows + c.list * a.rows.stride + c.first;
  for (int k = threadIdx.x; k < c.count; k += kThreads) {
    std::int64_t row = rows[k];
    if (row < a.src.first || row >= a.src.first + a.src.rows) *fault = kRowOutsideSource, row = a.src.first;
    job.rows[k] = static_cast<std::int32_t>(row);
  }
  if (threadIdx.x == 0) job.src = source(a, c), job.row_bytes = a.row_bytes, job.count = c.count;
  __syncthreads();
  if (threadIdx.x == 0)
    ::cuda::atomic_ref<unsigned, ::cuda::thread_scope_system>(ring.requested[slot])
        .store(number, ::cuda::memory_order_release);
}

/// Waits for a request's rows; false when the host does not answer.
__device__ bool await(const GatherRing& ring, int slot, unsigned number, Shared& shared) {
  constexpr long long kPatience = 10'000'000'000;  // nanoseconds
  if (threadIdx.x == 0) {
    const ::cuda::atomic_ref<unsigned, ::cuda::thread_scope_system> ready(ring.ready[slot]);
    long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    shared.silent = false;
    while (ready.load(::cuda::memory_order_acquire) != number && !shared.silent) {
      asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
      shared.silent = now - start > kPatience;
    }
  }
  __syncthreads();
  return !shared.silent;
}

/// Chunks through the block's slots of the ring, `most` at most; in turn, so that the oldest request is awaited.
template <class Unit>
__device__ void pull_chunks(const GatherArgs& a, const Chunks& chunks, GatherQueue* queue, const GatherRing& ring,
                            unsigned blocks, unsigned most, int* fault, Shared& shared) {
  const unsigned own = ring.slots / blocks;
  auto slot_of = [&](unsigned n) { return static_cast<int>(blockIdx.x * own + n % own); };
  unsigned asked = 0, pulled = 0;
  auto ask = [&] {
    const unsigned chunk = asked < most ? take(queue, true, chunks.total(), shared) : chunks.total();
    if (chunk >= chunks.total()) {
      most = asked;
      return;
    }
    const int slot = slot_of(asked);
    if (threadIdx.x == 0)
      shared.chunk_of_slot[asked % own] = chunk, shared.request[asked % own] = ++queue->requests[slot];
    __syncthreads();
    request(a, chunks, ring, chunk, slot, shared.request[asked % own], fault);
    ++asked;
  };
  while (asked < most && asked < own) ask();
  for (; pulled < asked; ++pulled) {
    const int slot = slot_of(pulled);
    if (!await(ring, slot, shared.request[pulled % own], shared)) {
      *fault = kHostGatherSilent;
      return;
    }
    const Chunk c = chunks[shared.chunk_of_slot[pulled % own]];
    const std::byte* src = ring.data + slot * kChunkBytes;
    std::byte* dst = destination(a, c);
    copy_rows<4, Unit>(
        1, c.count * a.row_bytes, threadIdx.x, kThreads, [&](int) { return src; }, [&](int) { return dst; },
        [](const Unit* at) { return __ldcv(at); });
    __syncthreads();  // the slot is read
    ask();
  }
}

template <class Unit>
__global__ void __launch_bounds__(kThreads)
    gather_rows(const __grid_constant__ GatherArgs a, const __grid_constant__ GatherRing ring, unsigned host_blocks,
                float host_share, GatherQueue* queue, Word* bytes, int* fault) {
  extern __shared__ unsigned ends[];
  __shared__ Shared shared;
  const Chunks chunks(a, ends, fault, shared);
  if (blockIdx.x < host_blocks) {
    const auto most = static_cast<unsigned>(static_cast<float>(chunks.total()) * host_share);
    const unsigned own = most / host_blocks + (blockIdx.x < most % host_blocks);
    pull_chunks<Unit>(a, chunks, queue, ring, host_blocks, own, fault, shared);
  } else {
    read_rows<Unit>(a, chunks, host_blocks == 0, queue, fault, shared);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0 && chunks.all_rows() > 0)
    atomicAdd(bytes, static_cast<Word>(chunks.all_rows()) * static_cast<Word>(a.row_bytes));
  __syncthreads();
  __threadfence();
  if (threadIdx.x == 0 && atomicInc(&queue->finished, gridDim.x - 1) == gridDim.x - 1) queue->taken = 0;
}

}  // namespace

void gather(const GatherArgs& a, const GatherRoutes& routes, int* fault, cudaStream_t stream) {
  const std::int64_t lists = a.batch.count * a.kv_heads;
  if (lists == 0 || a.rows.stride == 0) return;
  const auto [host_blocks, device_blocks] = blocks_of(routes);
  const Launch launch{.grid = host_blocks + device_blocks,
                      .block = kThreads,
                      .shared_bytes = static_cast<std::size_t>(lists) * sizeof(unsigned),
                      .stream = stream};
  with_unit(a.row_bytes, [&]<class Unit>(Unit) {
    launch(gather_rows<Unit>, a, routes.ring, host_blocks, routes.host_share, routes.queue, routes.bytes, fault);
  });
}

}  // namespace longhaul::cuda
