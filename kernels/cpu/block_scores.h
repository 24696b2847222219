// The blocks in which many tokens meet many keys: attention of a prefill, and the mass it gives.
#pragma once
#include "kernels/cpu/gemm.h"

namespace longhaul::cpu {

inline constexpr std::int64_t kQueryBlock = 256;
/// Cut at absolute row numbers too: tiles of a multiple of this agree bit for bit.
inline constexpr std::int64_t kKeyBlock = 512;

/// s [tokens, keys], rows kKeyBlock apart: every query with every key, unscaled. `k` points at the first K | V row.
inline void block_scores(DType act, const void* q, std::int64_t q_stride, const void* k, std::int64_t head_dim,
                         std::int64_t tokens, std::int64_t keys, float* s) {
  gemm({.a = q,
        .a_type = act,
        .lda = q_stride,
        .b = k,
        .b_type = act,
        .ldb = 2 * head_dim,
        .b_transposed = true,
        .c = s,
        .ldc = kKeyBlock,
        .accumulate = false,
        .m = tokens,
        .n = keys,
        .k = head_dim});
}

}  // namespace longhaul::cpu
