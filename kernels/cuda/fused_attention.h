// attend in bf16 through cuDNN's fused attention. Owned by the device. The library is opened when the program runs: a
// machine without it, or a build without its headers (no_fused_attention.cc), computes with our own kernels.
#pragma once
#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "kernels/ops.h"

namespace longhaul::cuda {

class FusedAttention {
 public:
  FusedAttention();
  ~FusedAttention();

  /// False, and nothing enqueued, for what the library refuses.
  bool run(const AttendArgs&, cudaStream_t);
  /// What computes attention: "cuDNN 9.19.0", or why it is not the library.
  std::string describe() const;

 private:
  struct Library;
  std::unique_ptr<Library> library_;  // null: not there
  std::string why_;
};

}  // namespace longhaul::cuda
