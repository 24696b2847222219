// attend in bf16 through cuDNN's fused attention. Owned by the device. The library is opened when the program runs: a
// machine without it, or a build without its headers (no_fused_attention.cc), computes with our own kernels.
#pragma once
#include <memory>
#include <string>

#include "kernels/cuda/workspace.h"
#include "kernels/ops.h"

namespace longhaul::cuda {

class FusedAttention {
 public:
  static constexpr std::int64_t kWorkspaceBytes = std::int64_t{64} << 10;  // a plan has asked for 256 bytes

  /// `workspace`: kWorkspaceBytes of device memory, the caller's.
  explicit FusedAttention(std::byte* workspace);
  ~FusedAttention();

  /// False, and nothing enqueued, for what the library refuses, and for windows. state.l may be null: m is the
  /// logarithm of the whole sum.
  bool run(const AttendArgs&, cudaStream_t);
  void forget(cudaStream_t stream) { workspace_.forget(stream); }
  /// What computes attention: "cuDNN 9.19.0", or why it is not the library.
  std::string describe() const;

 private:
  struct Library;
  std::unique_ptr<Library> library_;  // null: not there
  std::string why_;
  Workspace workspace_;
};

}  // namespace longhaul::cuda
