// The operators on the device: what a CudaStream enqueues. None waits, none allocates; no tokens, no launch.
#pragma once
#include <cuda_runtime_api.h>

#include "kernels/ops.h"

namespace longhaul::cuda {

/// What a kernel found wrong with its operands, written to the device's fault word (kernels/cuda/machine.h).
enum Fault : int { kNoFault = 0, kTokenOutsideVocabulary };

void embed(const EmbedArgs&, int* fault, cudaStream_t);
void rms_norm(const RmsNormArgs&, cudaStream_t);
void rope(const RopeArgs&, cudaStream_t);
void silu_mul(const SiluMulArgs&, cudaStream_t);
void append(const AppendArgs&, cudaStream_t);
void attend(const AttendArgs&, cudaStream_t);
void finish(const FinishArgs&, cudaStream_t);
void sample(const SampleArgs&, cudaStream_t);

/// linear in float32 throughout, no TF32: the correctness mode. bf16 products are kernels/cuda/matmul.h's.
void linear_f32(const LinearArgs&, cudaStream_t);

void fill_floats(float* at, float value, std::int64_t count, cudaStream_t);

/// linear for up to kDecodeTokens tokens in bf16; false: not for this shape (`in` is no multiple of 8).
bool linear_few(const LinearArgs&, int processors, cudaStream_t);

/// attend without a library: bf16 of head_dim up to 128 on tensor cores, or all else.
void attend_bf16(const AttendArgs&, cudaStream_t);
void attend_many(const AttendArgs&, cudaStream_t);

}  // namespace longhaul::cuda
