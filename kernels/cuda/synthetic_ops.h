// The operators of synthetic runs on the device (kernels/synthetic_ops.h).
#pragma once
#include <cuda_runtime_api.h>

#include "kernels/synthetic_ops.h"

namespace longhaul::cuda {

void random_fill(const RandomFillArgs&, cudaStream_t);
void replay(const ReplayArgs&, cudaStream_t);
void checksum(const ChecksumArgs&, cudaStream_t);

}  // namespace longhaul::cuda
