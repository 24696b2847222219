// Where the rows of a segment (a token and a KV head) are: of a source, of(segment) gives the segment's rows, and of
// these place(i) reads where row i is and at(place) gives its address, null for a row that is not to be attended. Two
// steps, so that a place can be read ahead. Row numbers ascend; find(row, begin, end) is the first of the rows i of
// [begin, end) whose number is `row` or more, else end. Whole warps call it.
#pragma once
#include <climits>
#include <cstdint>

#include "kernels/sparse_ops.h"

namespace longhaul::cuda {

/// The same of ascending numbers.
__device__ inline int first_from(const std::int32_t* numbers, int row, int begin, int end) {
  while (begin < end) {  // each lane looks at the first of a 32nd of them
    const int step = (end - begin + 31) / 32, at = begin + static_cast<int>(threadIdx.x % 32) * step;
    const int below = __popc(__ballot_sync(~0u, at < end && __ldg(numbers + at) < row));
    if (below == 0) break;
    end = min(end, begin + below * step);
    begin += (below - 1) * step + 1;
  }
  return begin;
}

/// Rows that follow one another, up to a place where they go on from the start.
struct RowRun {
  const std::byte* data;
  int start, wrap, row_bytes;
  int number = 0;  // of row 0

  __device__ std::int32_t place(int i) const { return i; }
  __device__ const std::byte* at(std::int32_t i) const {
    const int place = start + i;
    return data + static_cast<std::int64_t>(place < wrap ? place : place - wrap) * row_bytes;
  }
  __device__ int find(int row, int begin, int end) const { return min(max(row - number, begin), end); }
};

/// The rows of a tile or of the ring.
struct StepSource {
  const StepSpan* spans;
  KvTile kv;
  StepRows from;
  int kv_heads, row_bytes;
  std::int64_t window;

  __device__ RowRun of(int segment) const {
    const StepSpan& span = spans[segment / kv_heads];
    const std::byte* data = kv.data + span.slot * kv.session_stride + segment % kv_heads * kv.head_stride;
    if (from == StepRows::tile) return {data, 0, INT_MAX, row_bytes, static_cast<int>(kv.first)};
    const int wrap = static_cast<int>(kv.rows), first = first_of_ring(span, window);
    return {data, first % wrap, wrap, row_bytes, first};
  }
};

/// The missed rows of a list: they are in staging one after another.
struct MissedSource {
  KvTile staging;
  const std::int32_t* landed;  // [segments]
  int kv_heads, row_bytes;

  __device__ RowRun of(int segment) const {
    const std::byte* data =
        staging.data + segment / kv_heads * staging.session_stride + segment % kv_heads * staging.head_stride;
    return {data, landed[segment], INT_MAX, row_bytes};
  }
};

enum class ListPart { all, landed, missed };

struct ListedRows {
  const std::int32_t *places, *numbers;
  const std::byte *prefix, *ring, *cache, *staging;
  int row_bytes, staged_begin, staged_end;
  bool others;  // whether rows outside staging are attended

  __device__ std::int32_t place(int i) const { return __ldg(places + i); }
  __device__ const std::byte* at(std::int32_t place) const {
    const Region region = place_region(place);
    const int index = static_cast<int>(place_index(place));
    const bool attended = region == Region::staging ? index >= staged_begin && index < staged_end : others;
    const std::byte* data = region == Region::prefix  ? prefix
                            : region == Region::ring  ? ring
                            : region == Region::cache ? cache
                                                      : staging;
    return attended ? data + static_cast<std::int64_t>(index) * row_bytes : nullptr;
  }
  __device__ int find(int row, int begin, int end) const { return first_from(numbers, row, begin, end); }
};

/// The rows of a list, or those that had landed, or those that had not.
struct ListSource {
  const StepSpan* spans;
  const std::int32_t *places, *numbers;  // [segments, stride]
  std::int64_t stride;
  Regions regions;
  const std::int32_t* landed;  // [segments]; null: all have
  ListPart part;
  int kv_heads, row_bytes;

  __device__ ListedRows of(int segment) const {
    const int token = segment / kv_heads, head = segment % kv_heads, slot = spans[token].slot;
    auto data = [&](const KvTile& tile, int session) -> const std::byte* {
      return tile.data + session * tile.session_stride + head * tile.head_stride;
    };
    const int until = landed == nullptr ? INT_MAX : landed[segment];
    return {.places = places + segment * stride,
            .numbers = numbers + segment * stride,
            .prefix = data(regions.prefix, slot),
            .ring = data(regions.ring, slot),
            .cache = data(regions.cache, slot),
            .staging = data(regions.staging, token),
            .row_bytes = row_bytes,
            .staged_begin = part == ListPart::missed ? until : 0,
            .staged_end = part == ListPart::landed ? until : INT_MAX,
            .others = part != ListPart::missed};
  }
};

/// A source whose rows are asked with the forms of dual-chunk attention: kernels of their own, for the others have no
/// register to spare.
template <class Source>
struct Formed : Source {};

/// Missed rows, and the list that has their numbers: the i-th of them is the list's i-th at a place from `landed` on.
struct MissedRows : RowRun {
  const std::int32_t *places, *numbers;
  int count;

  __device__ int find(int row, int begin, int end) const {
    // The last of them before `row`: as a rule it is not far.
    for (int from = first_from(numbers, row, 0, count); from > 0; from -= 32) {
      const int i = from - 1 - static_cast<int>(threadIdx.x % 32);
      const std::int32_t place = i < 0 ? row_place(Region::prefix, 0) : __ldg(places + i);
      const int index = static_cast<int>(place_index(place));
      const unsigned missed = __ballot_sync(~0u, place_region(place) == Region::staging && index >= start);
      if (missed == 0) continue;
      const int before = __shfl_sync(~0u, index, __ffs(static_cast<int>(missed)) - 1) - start + 1;
      return min(max(before, begin), end);
    }
    return begin;
  }
};
template <>
struct Formed<MissedSource> : MissedSource {
  const std::int32_t *places, *numbers;  // [segments, stride]
  const std::int32_t* counts;            // [segments]
  std::int64_t stride;

  __device__ MissedRows of(int segment) const {
    return {MissedSource::of(segment), places + segment * stride, numbers + segment * stride, counts[segment]};
  }
};
template <class Source>
inline constexpr bool kHasForms = false;
template <class Source>
inline constexpr bool kHasForms<Formed<Source>> = true;

}  // namespace longhaul::cuda
