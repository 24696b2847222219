// expand: packed weights to bf16. A thread makes 8 values of each of four rows: the loads of their codes (4 or 8 bytes
// a lane, neighbours in neighbouring lanes) are under way together, and each is one store of 16 bytes a lane. Bound by
// memory: a weight takes its packed bits and 2 bytes, 2.53 (int4) to 3.08 (q6_k) bytes at the rate of a copy, of which
// the store is four fifths. Not run on a GPU yet.
//
// Products read their weights before the kernel before them has ended (linear_few.cu): that is this one, so every
// thread's values are visible before its block ends, and the next kernel cannot start before that.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256, kRows = 4;
constexpr std::int64_t kMostAcross = 32768;  // blocks along y; the rest comes by stride

template <PackedType type>
__device__ uint4 expanded(uint2 codes, const packed::Scale& scale) {
  std::uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float x[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int n = 2 * i + j;
      const std::uint32_t code =
          is_four_bits(type) ? codes.x >> 4 * n & 15 : (n < 4 ? codes.x : codes.y) >> n % 4 * 8 & 255;
      x[j] = packed::value_of(type, code, scale);
    }
    pairs[i] = narrow<bf16>(x[0]).bits | static_cast<std::uint32_t>(narrow<bf16>(x[1]).bits) << 16;
  }
  return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

template <PackedType type>
__global__ void __launch_bounds__(kThreads) expand_rows(const __grid_constant__ ExpandArgs a) {
  const std::int64_t first = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * 8;
  if (first >= a.cols) return;
  const std::int64_t bytes = packed_row_bytes(a.format, a.cols), scales = packed_code_bytes(a.format, a.cols);
  const std::int64_t group = static_cast<unsigned>(first) / static_cast<unsigned>(a.format.group);
  for (std::int64_t row = std::int64_t{blockIdx.y} * kRows; row < a.rows; row += std::int64_t{gridDim.y} * kRows) {
    uint2 codes[kRows];
    packed::Scale scale[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row + r >= a.rows) break;
      const std::byte* from = a.packed + (row + r) * bytes;
      if constexpr (is_four_bits(type)) codes[r] = {*reinterpret_cast<const std::uint32_t*>(from + first / 2), 0};
      else codes[r] = *reinterpret_cast<const uint2*>(from + first);
      scale[r] = packed::scale_of(type, reinterpret_cast<const std::uint32_t*>(from + scales), group);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row + r >= a.rows) break;
      *reinterpret_cast<uint4*>(a.out + (row + r) * a.cols + first) = expanded<type>(codes[r], scale[r]);
    }
  }
  __threadfence();
}

}  // namespace

void expand(const ExpandArgs& a, cudaStream_t stream) {
  if (a.rows == 0) return;
  const auto across = static_cast<unsigned>((a.cols / 8 + kThreads - 1) / kThreads);
  const std::int64_t down = (a.rows + kRows - 1) / kRows;
  auto launch = [&](auto* kernel) {
    Launch{.grid = {across, static_cast<unsigned>(down < kMostAcross ? down : kMostAcross)},
           .block = kThreads,
           .stream = stream}(kernel, a);
  };
  switch (a.format.type) {
    case PackedType::int4:
      return launch(expand_rows<PackedType::int4>);
    case PackedType::q4_k:
      return launch(expand_rows<PackedType::q4_k>);
    case PackedType::int8:
      return launch(expand_rows<PackedType::int8>);
    case PackedType::q6_k:
      return launch(expand_rows<PackedType::q6_k>);
    case PackedType::fp8:
      return launch(expand_rows<PackedType::fp8>);
    case PackedType::none:
      break;
  }
}

}  // namespace longhaul::cuda
