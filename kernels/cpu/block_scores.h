// The blocks in which many tokens meet many keys: attention of a prefill, and the mass it gives.
#pragma once
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/query_forms.h"
#include "kernels/cpu/scratch.h"

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

/// A block of them: `tokens` tokens of query head `head` from token t0 on, and the keys of rows [first, first + keys).
struct ScoreBlock {
  std::int64_t head, t0, tokens;
  const void* k;
  std::int64_t first, keys;
};

/// block_scores, every row asked with the form for it. A block that a chunk's border cuts is multiplied once for each
/// form in it, whole: a product's bits may depend on its shape. Args as for query_at, and q_pos.
template <class Args>
void form_scores(const Args& a, const ScoreBlock& b, float* s, Scratch& scratch) {
  const std::int64_t chunk = a.forms.chunk, position = a.q_pos + b.t0;
  // A row after the token's own has no form, and its score no meaning: any will do.
  const auto form_of = [&](std::int64_t row, std::int64_t at) { return query_form(std::min(row, at), at, chunk); };
  const auto multiply = [&](std::int64_t form, float* to) {
    block_scores(a.act, query_at(a, form, b.t0, b.head), form == 0 ? a.q_stride : a.q_heads * a.head_dim, b.k,
                 a.head_dim, b.tokens, b.keys, to);
  };
  const std::int64_t most = form_of(b.first, position + b.tokens - 1);
  const std::int64_t least = form_of(b.first + b.keys - 1, position);
  multiply(least, s);
  for (std::int64_t form = least + 1; form <= most; ++form) {
    float* other = scratch.get<float>(kQueryBlock * kKeyBlock);
    multiply(form, other);
    for (std::int64_t t = 0; t < b.tokens; ++t)
      for_each_form(b.first, std::min(b.first + b.keys, position + t + 1), position + t, chunk,
                    [&](std::int64_t begin, std::int64_t end, std::int64_t of) {
                      if (of != form) return;
                      const std::int64_t place = t * kKeyBlock + begin - b.first;
                      std::copy_n(other + place, end - begin, s + place);
                    });
  }
}

}  // namespace longhaul::cpu
