// Adds up the parts of an attention, of one set or two, and what the state holds.
#pragma once
#include <cuda_runtime_api.h>

#include "kernels/cuda/deal.cuh"

namespace longhaul::cuda {

struct PartSet {
  RowCounts counts;  // by which the parts were dealt
  Parts parts;
};

struct MergePartsArgs {
  PartSet sets[2];
  int set_count, blocks;  // of the kernels that left the parts
  int group, head_dim;
  AttnState state;
  bool fresh;  // start from the empty state, whatever `state` holds
  void* out;   // [tokens, q_heads, head_dim] act: o / l; null: state.o gets o
  DType act;
};

void merge_parts(const MergePartsArgs&, cudaStream_t);

}  // namespace longhaul::cuda
