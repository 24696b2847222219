// Which kernel attends the parts, and over how many blocks.
#pragma once
#include <algorithm>

#include "kernels/base/bytes.h"
#include "kernels/cuda/attend_rows_f32.cuh"
#include "kernels/cuda/attend_rows_mma.cuh"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_sources.cuh"

namespace longhaul::cuda {

/// As many as the current device holds at once.
inline int attend_blocks(DType act, std::int64_t head_dim) {
  const int each = act == DType::bf16 ? mma_blocks(static_cast<int>(head_dim)) : kF32Blocks;
  return std::min<int>(multiprocessors() * each, kMostSplitBlocks);
}

template <RowType type, class Source>
void attend_typed(const AttendPartsArgs<Source>& a, DType act, cudaStream_t stream) {
  auto launch = [&](auto* kernel, int heads) {
    Launch{.grid = {static_cast<unsigned>(attend_blocks(act, a.head_dim)),
                    static_cast<unsigned>(ceil_div(a.group, heads))},
           .block = kAttendThreads,
           .stream = stream,
           .overlap = true}(kernel, a);
  };
  const int d = a.head_dim;
  if (act == DType::f32)
    launch(d <= 128 ? attend_rows_f32<type, 16, Source> : attend_rows_f32<type, 32, Source>, kF32Heads);
  else if (d == 64) launch(attend_rows_mma<type, 64, true, Source>, kMmaHeads);
  else if (d == 128) launch(attend_rows_mma<type, 128, true, Source>, kMmaHeads);
  else if (d > 128) launch(attend_rows_mma<type, 256, false, Source>, kMmaHeads);
  else if (d > 64) launch(attend_rows_mma<type, 128, false, Source>, kMmaHeads);
  else launch(attend_rows_mma<type, 64, false, Source>, kMmaHeads);
}

template <class Source>
void attend_parts(const AttendPartsArgs<Source>& a, RowType type, DType act, cudaStream_t stream) {
  with_row_type(type, [&](auto type) { attend_typed<type()>(a, act, stream); });
}

// Those for rows of fewer bits are compiled in attend_int8.cu, attend_fp8.cu and attend_int4.cu.
extern template void attend_typed<RowType::int8>(const AttendPartsArgs<StepSource>&, DType, cudaStream_t);
extern template void attend_typed<RowType::int8>(const AttendPartsArgs<ListSource>&, DType, cudaStream_t);
extern template void attend_typed<RowType::int8>(const AttendPartsArgs<MissedSource>&, DType, cudaStream_t);
extern template void attend_typed<RowType::int8>(const AttendPartsArgs<Formed<StepSource>>&, DType, cudaStream_t);
extern template void attend_typed<RowType::int8>(const AttendPartsArgs<Formed<ListSource>>&, DType, cudaStream_t);
extern template void attend_typed<RowType::int8>(const AttendPartsArgs<Formed<MissedSource>>&, DType, cudaStream_t);
extern template void attend_typed<RowType::fp8>(const AttendPartsArgs<StepSource>&, DType, cudaStream_t);
extern template void attend_typed<RowType::fp8>(const AttendPartsArgs<ListSource>&, DType, cudaStream_t);
extern template void attend_typed<RowType::fp8>(const AttendPartsArgs<MissedSource>&, DType, cudaStream_t);
extern template void attend_typed<RowType::fp8>(const AttendPartsArgs<Formed<StepSource>>&, DType, cudaStream_t);
extern template void attend_typed<RowType::fp8>(const AttendPartsArgs<Formed<ListSource>>&, DType, cudaStream_t);
extern template void attend_typed<RowType::fp8>(const AttendPartsArgs<Formed<MissedSource>>&, DType, cudaStream_t);
extern template void attend_typed<RowType::int4>(const AttendPartsArgs<StepSource>&, DType, cudaStream_t);
extern template void attend_typed<RowType::int4>(const AttendPartsArgs<ListSource>&, DType, cudaStream_t);
extern template void attend_typed<RowType::int4>(const AttendPartsArgs<MissedSource>&, DType, cudaStream_t);
extern template void attend_typed<RowType::int4>(const AttendPartsArgs<Formed<StepSource>>&, DType, cudaStream_t);
extern template void attend_typed<RowType::int4>(const AttendPartsArgs<Formed<ListSource>>&, DType, cudaStream_t);
extern template void attend_typed<RowType::int4>(const AttendPartsArgs<Formed<MissedSource>>&, DType, cudaStream_t);

}  // namespace longhaul::cuda
