// What fused_attention.h means in a build without cuDNN's headers.
#include "kernels/cuda/fused_attention.h"

namespace longhaul::cuda {

struct FusedAttention::Library {};

FusedAttention::FusedAttention() : why_("this build has no cuDNN") {}
FusedAttention::~FusedAttention() = default;
bool FusedAttention::run(const AttendArgs&, cudaStream_t) { return false; }
std::string FusedAttention::describe() const { return why_; }

}  // namespace longhaul::cuda
