// The operators on the device: what a CudaStream enqueues. None waits, none allocates; no tokens, no launch.
#pragma once
#include <cuda_runtime_api.h>

#include "kernels/sparse_ops.h"

namespace longhaul::cuda {

/// What a kernel found wrong with its operands, written to the device's fault word (kernels/cuda/machine.h).
enum Fault : int {
  kNoFault = 0,
  kTokenOutsideVocabulary,
  kMissingRowsDoNotFit,
  kRowsDoNotFitStaging,
  kRowOutsideSource,
  kHostGatherSilent,
};

void embed(const EmbedArgs&, int* fault, cudaStream_t);
void rms_norm(const RmsNormArgs&, cudaStream_t);
void expand(const ExpandArgs&, cudaStream_t);
void head_norm(const HeadNormArgs&, cudaStream_t);
void rope(const RopeArgs&, cudaStream_t);
void silu_mul(const SiluMulArgs&, cudaStream_t);
void route(const RouteArgs&, cudaStream_t);  // two kernels: the choice of experts, then the places
void expert_linear(const ExpertLinearArgs&, cudaStream_t);
void mix(const MixArgs&, cudaStream_t);
void append(const AppendArgs&, cudaStream_t);
void attend(const AttendArgs&, cudaStream_t);
void attend_step(const AttendStepArgs&, cudaStream_t);  // two kernels: parts of rows, then their sum
void finish(const FinishArgs&, cudaStream_t);
void sample(const SampleArgs&, cudaStream_t);
void select(const SelectArgs&, unsigned gather_blocks, cudaStream_t);

void append_step(const AppendStepArgs&, cudaStream_t);
void label_rows(const LabelRowsArgs&, cudaStream_t);
void fill(const FillArgs&, cudaStream_t);
void add_list_mass(const AddListMassArgs&, cudaStream_t);
void add_mass(const AddMassArgs&, cudaStream_t);
void store_rows(const StoreRowsArgs&, cudaStream_t);
void judge(const JudgeArgs&, cudaStream_t);
void moments(const MomentsArgs&, cudaStream_t);
void mean_values(const MeanValuesArgs&, cudaStream_t);

class Machine;
/// On the host, in the stream's order; a failure there is told by the machine's next enter().
void fit_labels(const FitLabelsArgs&, Machine&, cudaStream_t);
/// [kv_heads, fit_keys + queries, 2 * head_dim] act: the rows that stand for all, then those of the queries.
void pack_rows(const FitLabelsArgs&, std::byte* out, cudaStream_t);
void score_list(const ScoreListArgs&, cudaStream_t);
void finish_list(const FinishListArgs&, cudaStream_t);
void locate(const LocateArgs&, int* fault, cudaStream_t);
void retain(const RetainArgs&, cudaStream_t);

/// Blocks for each of `lists` lists that could use `wanted`: a power of two up to a cluster's, 1 without clusters, and
/// no more in all than the device runs at once.
unsigned team_blocks(std::int64_t wanted, std::int64_t lists);

/// linear in float32 throughout, no TF32: the correctness mode. bf16 products are kernels/cuda/matmul.h's.
void linear_f32(const LinearArgs&, cudaStream_t);

void fill_floats(float* at, float value, std::int64_t count, cudaStream_t);

/// linear for up to kDecodeTokens tokens in bf16; false: not for this shape (`in` is no multiple of 8).
bool linear_few(const LinearArgs&, int processors, cudaStream_t);

/// attend without a library: bf16 of head_dim up to 128 on tensor cores, or all else. Where state.l is null, m gets the
/// logarithm of the whole sum.
void attend_bf16(const AttendArgs&, cudaStream_t);
void attend_many(const AttendArgs&, cudaStream_t);

}  // namespace longhaul::cuda
