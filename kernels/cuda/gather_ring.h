// What a gather kernel and the host threads that gather for it share: slots through which requests go out and rows come
// back. A slot is the kernel's until it writes `requested`, the host's until that writes `ready`. Owned by HostGather.
#pragma once
#include <cstddef>
#include <cstdint>

namespace longhaul::cuda {

constexpr std::int64_t kChunkBytes = 32 << 10;  // of rows, that are moved at a time
constexpr int kChunkRows = 512;                 // at most, in a chunk
constexpr int rows_of_chunk(std::int64_t row_bytes) {
  const std::int64_t rows = row_bytes < kChunkBytes ? kChunkBytes / row_bytes : 1;
  return static_cast<int>(rows < kChunkRows ? rows : kChunkRows);
}

/// A request: `count` rows, in pinned memory.
struct GatherJob {
  const std::byte* src;  // row 0
  std::int64_t row_bytes;
  std::int32_t count;
  std::int32_t rows[kChunkRows];
};

struct GatherRing {
  int slots = 0;
  // In pinned memory: a request's number, which the kernel writes last, and the same when its rows are there.
  unsigned *requested = nullptr, *ready = nullptr;  // [slots]
  GatherJob* jobs = nullptr;                        // [slots]
  std::byte* data = nullptr;                        // [slots, kChunkBytes]
};

}  // namespace longhaul::cuda
