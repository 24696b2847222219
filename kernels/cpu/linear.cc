// linear: many tokens go to oneDNN in tiles; few tokens stream the weights once through our own loop, whose result for
// a token does not depend on the other tokens of the call.
#include <algorithm>

#include "kernels/base/parallel.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

constexpr std::int64_t kDecodeTokens = 64;

void decode(const LinearArgs& a) {
  thread_local Scratch x_scratch;
  float* space = a.act == DType::f32 ? nullptr : x_scratch.get<float>(a.tokens * a.in);
  const float* x = read_row(a.x, a.act, a.tokens * a.in, space);
  // A block of weights stays in the second-level cache while all tokens pass over it.
  const std::int64_t block = std::clamp<std::int64_t>((256 << 10) / (2 * a.in) / 4 * 4, 4, 64);
  parallel_for(ceil_div(a.out_dim, block), 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* y = scratch.get<float>((kDecodeTokens + 1) * block);
    float* old = y + kDecodeTokens * block;
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t first = b * block, rows = std::min(block, a.out_dim - first);
      simd().dot_rows(a.w + first * a.in, rows, a.in, x, a.tokens, y, block);
      for (std::int64_t t = 0; t < a.tokens; ++t) {
        void* out = at(a.out, a.out_type, t * a.out_dim + first);
        if (a.accumulate) simd().blend(y + t * block, 1.0f, read_row(out, a.out_type, rows, old), 1.0f, rows);
        write_row(y + t * block, out, a.out_type, rows);
      }
    }
  });
}

void prefill(const LinearArgs& a) {
  constexpr std::int64_t kTokens = 512, kOut = 256;
  const std::int64_t token_tiles = ceil_div(a.tokens, kTokens), out_tiles = ceil_div(a.out_dim, kOut);
  parallel_for(token_tiles * out_tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t t = i % token_tiles * kTokens, o = i / token_tiles * kOut;
      gemm({.a = at(a.x, a.act, t * a.in),
            .a_type = a.act,
            .lda = a.in,
            .b = a.w + o * a.in,
            .b_type = DType::bf16,
            .ldb = a.in,
            .b_transposed = true,
            .c = at(a.out, a.out_type, t * a.out_dim + o),
            .c_type = a.out_type,
            .ldc = a.out_dim,
            .accumulate = a.accumulate,
            .m = std::min(kTokens, a.tokens - t),
            .n = std::min(kOut, a.out_dim - o),
            .k = a.in});
    }
  });
}

}  // namespace

void linear(const LinearArgs& a) { a.tokens > kDecodeTokens ? prefill(a) : decode(a); }

}  // namespace longhaul::cpu
