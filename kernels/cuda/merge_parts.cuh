// Adds up the parts of an attention, of one set or two, and what the state holds.
#pragma once
#include <cuda_runtime_api.h>

#include "kernels/cuda/deal.cuh"
#include "kernels/cuda/row_sources.cuh"

namespace longhaul::cuda {

struct PartSet {
  RowCounts counts;  // by which the parts were dealt
  Parts parts;
};

/// What stands for the rows that a list leaves out.
struct ListTail {
  const float* tail = nullptr;  // [tokens, q_heads] as in RowList; null: nothing does
  const float* mean;            // by slot: [kv_heads, head_dim]
  std::int64_t mean_session_stride;
  const StepSpan* spans;  // of the tokens
  int kv_heads;
};

struct MergePartsArgs {
  PartSet sets[2];
  int set_count, blocks;  // of the kernels that left the parts
  int group, head_dim;
  AttnState state;
  bool fresh;  // start from the empty state, whatever `state` holds
  void* out;   // [tokens, q_heads, head_dim] act: o / l; null: state.o gets o
  DType act;
  ListTail tail = {};
};

void merge_parts(const MergePartsArgs&, cudaStream_t);

}  // namespace longhaul::cuda
