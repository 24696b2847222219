// Scores of a fit's queries, of its keys in truth or of their labels, on the calling thread.
#pragma once
#include "kernels/base/parallel.h"
#include "kernels/cpu/fit_queries.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/key_labels.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {

/// scores [lines, padded] of queries [lines, dim], activations as the keys are.
inline void score_keys(const FitRows& rows, const std::byte* q, std::int64_t lines, float scale, float* scores) {
  gemm({.a = q,
        .a_type = rows.act,
        .lda = rows.dim,
        .b = rows.key(0),
        .b_type = rows.act,
        .ldb = rows.stride(),
        .b_transposed = true,
        .c = scores,
        .ldc = rows.padded,
        .accumulate = false,
        .m = lines,
        .n = rows.count,
        .k = rows.dim});
  for (std::int64_t i = 0; i < lines; ++i)
    simd().scale(scores + i * rows.padded, scale, scores + i * rows.padded, rows.count);
}

/// The same by labels.
inline void score_labels(const FitRows& rows, const std::byte* q, std::int64_t lines, float scale, const Basis& basis,
                         const KeyLabels& keys, float* scores) {
  const std::int64_t dims = std::ssize(keys.sums), d = rows.dim;
  thread_local Scratch scratch;
  float *wide = scratch.get<float>(d + lines * dims), *coordinates = wide + d;
  for (std::int64_t i = 0; i < lines; ++i)
    simd().dots(basis.query_map, dims, d, read_row(at(q, rows.act, i * d), rows.act, d, wide), coordinates + i * dims);
  simd().scale(coordinates, scale, coordinates, lines * dims);
  gemm({.a = coordinates,
        .a_type = DType::f32,
        .lda = dims,
        .b = keys.labels.data(),
        .b_type = DType::f32,
        .ldb = rows.padded,
        .b_transposed = false,
        .c = scores,
        .ldc = rows.padded,
        .accumulate = false,
        .m = lines,
        .n = rows.count,
        .k = dims});
}

/// Scores of lines of which each key is asked with one form: score(form, to) gives those of a form to all keys.
template <class Score, class Position>
void score_forms(const FitKeys& sampled, std::int64_t forms, std::int64_t lines, std::int64_t padded,
                 const Score& score, const Position& position, float* scores) {
  score(0, scores);
  thread_local Scratch scratch;
  for (std::int64_t form = 1; form < forms; ++form) {
    float* other = scratch.get<float>(lines * padded);
    score(form, other);
    for (std::int64_t i = 0; i < lines; ++i) sampled.take(form, position(i), other + i * padded, scores + i * padded);
  }
}

/// What is done to trials [first, first + n) together, in parallel: as many as have `lines` queries of a group. What a
/// trial gets does not depend on who does it.
template <class Body>
void each_piece(std::int64_t trials, std::int64_t group, std::int64_t lines, const Body& body) {
  const std::int64_t together = std::max<std::int64_t>(1, lines / group);
  parallel_for(ceil_div(trials, together), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece)
      body(piece * together, std::min(together, trials - piece * together));
  });
}

}  // namespace longhaul::cpu
