#include "tests/support/planted.h"

#include "kernels/cuda/launch.h"

namespace longhaul::test {
namespace {

constexpr int kThreads = 128;

__global__ void write(float* data) { data[threadIdx.x] = 1; }

__global__ void race(float* out) {
  __shared__ float row[kThreads];
  row[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = row[(threadIdx.x + 64) % kThreads];
}

__global__ void read(const float* data, float* out) { out[threadIdx.x] = data[threadIdx.x] + 1; }

__global__ void diverge(float* out) {
  if (threadIdx.x % 2 == 0) __syncthreads();
  out[threadIdx.x] = 1;
}

}  // namespace

void plant(Mistake mistake) {
  float *a = nullptr, *b = nullptr;  // as long as a block has threads
  cuda::check(cudaMalloc(&a, kThreads * sizeof(float)));
  cuda::check(cudaMalloc(&b, kThreads * sizeof(float)));
  const cuda::Launch launch{.grid = 1, .block = kThreads, .stream = nullptr};
  switch (mistake) {
    case Mistake::out_of_bounds:
      cudaFree(a);
      cuda::check(cudaMalloc(&a, kThreads * sizeof(float) - 4));
      launch(write, a);
      break;
    case Mistake::race:
      launch(race, a);
      break;
    case Mistake::uninitialised:
      launch(read, a, b);
      break;
    case Mistake::divergence:
      launch(diverge, a);
      break;
    case Mistake::illegal_address:
      launch(read, reinterpret_cast<const float*>(64), b);
      break;
  }
  cudaDeviceSynchronize();
  cudaFree(a);
  cudaFree(b);
}

}  // namespace longhaul::test
