// The operators on host threads: what a CpuStream runs. Each is synchronous and parallel inside.
#pragma once
#include "kernels/ops.h"

namespace longhaul::cpu {

void embed(const EmbedArgs&);
void rms_norm(const RmsNormArgs&);
void linear(const LinearArgs&);
void rope(const RopeArgs&);
void silu_mul(const SiluMulArgs&);
void append(const AppendArgs&);
void attend(const AttendArgs&);
void merge(const MergeArgs&);
void finish(const FinishArgs&);
void sample(const SampleArgs&);

}  // namespace longhaul::cpu
