// fill: words of one value.
#include "kernels/base/bytes.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMostBlocks = 4096;  // the rest comes by grid stride

__global__ void __launch_bounds__(kThreads) fill_words(const __grid_constant__ FillArgs a) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < a.count;
       i += std::int64_t{gridDim.x} * kThreads)
    a.out[i] = a.value;
}

}  // namespace

void fill(const FillArgs& a, cudaStream_t stream) {
  if (a.count == 0) return;
  const std::int64_t blocks = ceil_div(a.count, kThreads);
  Launch{.grid = static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks),
         .block = kThreads,
         .stream = stream}(fill_words, a);
}

}  // namespace longhaul::cuda
