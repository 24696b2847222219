// The operators on host threads: what a CpuStream runs. Each is synchronous and parallel inside.
#pragma once
#include "kernels/sparse_ops.h"
#include "kernels/synthetic_ops.h"

namespace longhaul::cpu {

void embed(const EmbedArgs&);
void rms_norm(const RmsNormArgs&);
void linear(const LinearArgs&);
void expand(const ExpandArgs&);
void head_norm(const HeadNormArgs&);
void rope(const RopeArgs&);
void silu_mul(const SiluMulArgs&);
void route(const RouteArgs&);
void expert_linear(const ExpertLinearArgs&);
void mix(const MixArgs&);
void append(const AppendArgs&);
void attend(const AttendArgs&);
void append_step(const AppendStepArgs&);
void attend_step(const AttendStepArgs&);
void finish(const FinishArgs&);
void sample(const SampleArgs&);

void fit_labels(const FitLabelsArgs&);
/// The same from a sample: `a.kv` holds the rows that stand for all `rows`, fit_key() of each, and `at_queries`
/// [queries] those at the queries' own positions. Gives what all rows would.
void fit_labels(const FitLabelsArgs& a, const KvTile& at_queries, std::int64_t rows);
void label_rows(const LabelRowsArgs&);
void select(const SelectArgs&);
void locate(const LocateArgs&);
std::int64_t gather(const GatherArgs&);  // bytes moved
void score_list(const ScoreListArgs&);
void finish_list(const FinishListArgs&);
void retain(const RetainArgs&);
void fill(const FillArgs&);
void add_list_mass(const AddListMassArgs&);
void add_mass(const AddMassArgs&);
void store_rows(const StoreRowsArgs&);
void judge(const JudgeArgs&);
void moments(const MomentsArgs&);
void mean_values(const MeanValuesArgs&);

void random_fill(const RandomFillArgs&);
void replay(const ReplayArgs&);
void checksum(const ChecksumArgs&);

}  // namespace longhaul::cpu
