// attend where queries have forms: each form's rows by an attention of their own.
#pragma once
#include "kernels/cuda/fused_attention.h"

namespace longhaul::cuda {

/// As attend(), for forms.chunk > 0. Uses state.o.
void attend_forms(const AttendArgs&, FusedAttention&, cudaStream_t);

}  // namespace longhaul::cuda
