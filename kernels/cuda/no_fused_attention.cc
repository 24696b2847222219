// What fused_attention.h means in a build without cuDNN's headers.
#include "kernels/cuda/fused_attention.h"

namespace longhaul::cuda {

struct FusedAttention::Library {};

FusedAttention::FusedAttention(std::byte* workspace)
    : why_("our own kernels: this build has no cuDNN"), workspace_(workspace) {}
FusedAttention::~FusedAttention() = default;
bool FusedAttention::run(const AttendArgs&, cudaStream_t) { return false; }
std::string FusedAttention::describe() const { return why_; }

}  // namespace longhaul::cuda
