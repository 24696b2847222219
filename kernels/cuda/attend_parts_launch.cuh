// Which kernel attends the parts, and over how many blocks.
#pragma once
#include <algorithm>
#include <type_traits>

#include "kernels/base/bytes.h"
#include "kernels/cuda/attend_rows_any.cuh"
#include "kernels/cuda/attend_rows_mma.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {

inline bool attends_by_mma(DType act, std::int64_t head_dim) {
  return act == DType::bf16 && (head_dim == 64 || head_dim == 128);
}

/// As many as the current device holds at once.
inline int attend_blocks(DType act, std::int64_t head_dim) {
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const int each = attends_by_mma(act, head_dim) ? kMmaBlocks : kAnyBlocks;
  return std::min<int>(multiprocessors * each, kMostSplitBlocks);
}

template <class Source>
void attend_parts(const AttendPartsArgs<Source>& a, DType act, cudaStream_t stream) {
  auto launch = [&](auto* kernel, int heads) {
    Launch{.grid = {static_cast<unsigned>(attend_blocks(act, a.head_dim)),
                    static_cast<unsigned>(ceil_div(a.group, heads))},
           .block = kAttendThreads,
           .stream = stream,
           .overlap = true}(kernel, a);
  };
  if (attends_by_mma(act, a.head_dim))
    return launch(a.head_dim == 64 ? attend_rows_mma<64, Source> : attend_rows_mma<128, Source>, kMmaHeads);
  const bool narrow = a.head_dim <= 128;
  if (act == DType::bf16)
    launch(narrow ? attend_rows_any<bf16, 16, Source> : attend_rows_any<bf16, 32, Source>, kAnyHeads);
  else launch(narrow ? attend_rows_any<float, 16, Source> : attend_rows_any<float, 32, Source>, kAnyHeads);
}

}  // namespace longhaul::cuda
