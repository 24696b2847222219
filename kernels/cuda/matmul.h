// linear for bf16 activations through cuBLASLt, float32 sums. Owned by the device; plans are kept by shape. All streams
// share one workspace, so a stream that comes after another waits for it.
#pragma once
#include <map>

#include "kernels/cuda/workspace.h"
#include "kernels/ops.h"

namespace longhaul::cuda {

class Matmul {
 public:
  static constexpr std::int64_t kWorkspaceBytes = std::int64_t{32} << 20;  // what NVIDIA advises for Hopper

  /// `workspace`: kWorkspaceBytes of device memory, the caller's.
  explicit Matmul(std::byte* workspace) : workspace_(workspace) {}

  void run(const LinearArgs&, cudaStream_t);
  void forget(cudaStream_t stream) { workspace_.forget(stream); }

 private:
  struct Shape {
    std::int64_t tokens, in, out;
    DType out_type;
    bool accumulate, bias;
    std::uint32_t alignment;  // bytes, of all operands
    auto operator<=>(const Shape&) const = default;
  };
  struct Plan {
    cublasLtMatmulDescOpaque_t op;
    cublasLtMatrixLayoutOpaque_t w, x, out;
    cublasLtMatmulAlgo_t algorithm;
  };
  Plan& plan(const Shape&);  // not const: the library takes its descriptors that way

  BlasHandle handle_;
  Workspace workspace_;
  std::map<Shape, Plan> plans_;
};

}  // namespace longhaul::cuda
