// Which kernel attends the parts, and over how many blocks.
#pragma once
#include <algorithm>

#include "kernels/base/bytes.h"
#include "kernels/cuda/attend_rows_f32.cuh"
#include "kernels/cuda/attend_rows_mma.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {

/// As many as the current device holds at once.
inline int attend_blocks(DType act, std::int64_t head_dim) {
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const int each = act == DType::bf16 ? mma_blocks(static_cast<int>(head_dim)) : kF32Blocks;
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
  const int d = a.head_dim;
  if (act == DType::f32) launch(d <= 128 ? attend_rows_f32<16, Source> : attend_rows_f32<32, Source>, kF32Heads);
  else if (d == 64) launch(attend_rows_mma<64, true, Source>, kMmaHeads);
  else if (d == 128) launch(attend_rows_mma<128, true, Source>, kMmaHeads);
  else if (d < 64) launch(attend_rows_mma<64, false, Source>, kMmaHeads);
  else if (d < 128) launch(attend_rows_mma<128, false, Source>, kMmaHeads);
  else launch(attend_rows_mma<256, false, Source>, kMmaHeads);
}

}  // namespace longhaul::cuda
