// Attention of listed and streamed rows that are kept as fp8.
#include "kernels/cuda/attend_parts_launch.cuh"

namespace longhaul::cuda {

template void attend_typed<RowType::fp8>(const AttendPartsArgs<StepSource>&, DType, cudaStream_t);
template void attend_typed<RowType::fp8>(const AttendPartsArgs<ListSource>&, DType, cudaStream_t);
template void attend_typed<RowType::fp8>(const AttendPartsArgs<MissedSource>&, DType, cudaStream_t);
template void attend_typed<RowType::fp8>(const AttendPartsArgs<Formed<StepSource>>&, DType, cudaStream_t);
template void attend_typed<RowType::fp8>(const AttendPartsArgs<Formed<ListSource>>&, DType, cudaStream_t);
template void attend_typed<RowType::fp8>(const AttendPartsArgs<Formed<MissedSource>>&, DType, cudaStream_t);

}  // namespace longhaul::cuda
