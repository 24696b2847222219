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

constexpr std::int64_t kTileTokens = 512, kMaxWidth = 256;  // of one matrix product

/// Moves a block of results to rows [t0, t0 + tokens) and columns [first, first + width) of `out`: one rounding.
void store_block(const LinearArgs& a, float* y, std::int64_t stride, std::int64_t t0, std::int64_t tokens,
                 std::int64_t first, std::int64_t width) {
  float old[kMaxWidth], bias[kMaxWidth];
  if (a.bias != nullptr) simd().widen(a.bias + first, bias, width);
  for (std::int64_t t = 0; t < tokens; ++t, y += stride) {
    void* out = at(a.out, a.out_type, (t0 + t) * a.out_dim + first);
    if (a.bias != nullptr) simd().blend(y, 1.0f, bias, 1.0f, width);
    if (a.accumulate) simd().blend(y, 1.0f, read_row(out, a.out_type, width, old), 1.0f, width);
    write_row(y, out, a.out_type, width);
  }
}

void decode(const LinearArgs& a) {
  thread_local Scratch wide_scratch, x_scratch;
  float* space = a.act == DType::f32 ? nullptr : wide_scratch.get<float>(a.tokens * a.in);
  const float* wide = read_row(a.x, a.act, a.tokens * a.in, space);
  float* x = x_scratch.get<float>(a.tokens * a.in);
  for (std::int64_t t = 0; t < a.tokens; ++t) simd().split_pairs(wide + t * a.in, x + t * a.in, a.in);
  // A block of weights stays in the second-level cache while all tokens pass over it.
  const std::int64_t block = std::clamp<std::int64_t>((256 << 10) / (2 * a.in) / 24 * 24, 24, 72);
  parallel_for(ceil_div(a.out_dim, block), 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    float* y = scratch.get<float>((kDecodeTokens + a.tokens * kMostLanes) * block);
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t first = b * block, rows = std::min(block, a.out_dim - first);
      simd().dot_rows(a.w + first * a.in, rows, a.in, x, a.tokens, y, block, y + kDecodeTokens * block);
      store_block(a, y, block, 0, a.tokens, first, rows);
    }
  });
}

void prefill(const LinearArgs& a) {
  const std::int64_t token_tiles = ceil_div(a.tokens, kTileTokens), out_tiles = ceil_div(a.out_dim, kMaxWidth);
  parallel_for(token_tiles * out_tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t t = i % token_tiles * kTileTokens, o = i / token_tiles * kMaxWidth;
      const std::int64_t tokens = std::min(kTileTokens, a.tokens - t), width = std::min(kMaxWidth, a.out_dim - o);
      // Dense, because oneDNN's best kernels want that, and the residual is added before the one rounding.
      float* y = scratch.get<float>(tokens * width);
      gemm({.a = at(a.x, a.act, t * a.in),
            .a_type = a.act,
            .lda = a.in,
            .b = a.w + o * a.in,
            .b_type = DType::bf16,
            .ldb = a.in,
            .b_transposed = true,
            .c = y,
            .ldc = width,
            .accumulate = false,
            .m = tokens,
            .n = width,
            .k = a.in});
      store_block(a, y, width, t, tokens, o, width);
    }
  });
}

}  // namespace

void linear(const LinearArgs& a) { a.tokens > kDecodeTokens ? prefill(a) : decode(a); }

}  // namespace longhaul::cpu
