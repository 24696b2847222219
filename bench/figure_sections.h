// The parts of bench_cuda_figures: each measures figures of one kind and adds those that are wanted.
#pragma once
#include "apps/options.h"
#include "bench/figures.h"
#include "bench/synthetic_run.h"
#include "kernels/base/error.h"

namespace longhaul::bench {

struct SectionFlags {
  SyntheticSetting setting;    // geometry, device, context, batch, budgets; policy and sets for `step`
  std::string trace, trace_k;  // of 1/16 of the rows, and of k rows; empty: figures that replay one are left out
  std::int64_t k = 2048;
  double recall = 1;                 // of look-ahead, as measured with the traces
  std::string accuracy, accuracy_k;  // of the traced model with these rows, for the figures' settings
  int warm = 8, steps = 24;          // of each timing
  std::int64_t pin_bytes = std::int64_t{32} << 30;
};

/// decode_*, stream_vs_link: whole steps through the engine; under a budget of device memory
/// decode_offload_vs_stream_same_memory alone.
void decode_figures(Figures& figures, const SectionFlags& flags);
/// score_vs_bandwidth, topk_*_us: selection by labels.
void select_figures(Figures& figures, const SectionFlags& flags);
/// attend_*: decode attention over lists and over all rows.
void attend_figures(Figures& figures, const SectionFlags& flags);
/// prefill_attention_*, linear_*, head_*, sample_*, small_ops_us: the dense operators.
void dense_figures(Figures& figures, const SectionFlags& flags);
/// prefill_256k_s, of another setting prefill_GEOMETRY_POLICY_CONTEXT_BATCH...: all layers, with the host store's
/// checksum.
void prefill_figures(Figures& figures, const SectionFlags& flags);
/// gather_512B_GBps, gather_2KiB_GBps: scattered rows over the link.
void gather_figures(Figures& figures, const SectionFlags& flags);
/// pin_GiBps: from nothing to pinned host memory.
void pin_figures(Figures& figures, const SectionFlags& flags);
/// batch_8x64k_offload_docs_per_hour, ..._tokens_per_second, and the same of stream; of other batches likewise:
/// documents that are prefilled, and then decode together under a budget.
void batch_figures(Figures& figures, const SectionFlags& flags);
/// step_GEOMETRY_POLICY_CONTEXT_BATCH...: one setting's step beside its bound, for all that has no figure of its own.
void step_figure(Figures& figures, const SectionFlags& flags);

}  // namespace longhaul::bench
