// Queries of dual-chunk attention in their three forms, the rows they ask, and what comes of it by definition.
#pragma once
#include <cmath>
#include <numeric>

#include "kernels/cpu/ops.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"
#include "tests/support/reference.h"

namespace longhaul::test {

/// Queries in three forms, of `tokens` tokens; q is wider than needed.
struct ThreeForms {
  DType act;
  std::int64_t tokens, q_heads, d, chunk;
  std::int64_t stride = q_heads * d + 8, form_stride = tokens * q_heads * d + 16;
  Tensor q{act, tokens*stride}, older{act, 2 * form_stride};

  void fill(Random& random, bool alike) {
    q = random.normal(act, q.size);
    older = random.normal(act, older.size);
    for (std::int64_t i = 0; alike && i < tokens * q_heads * d; ++i)
      for (std::int64_t form = 0; form < 2; ++form)
        older.set(form * form_stride + i, q.get(i / (q_heads * d) * stride + i % (q_heads * d)));
  }
  QueryForms forms(std::int64_t first = 0) { return {chunk, older.at(first * q_heads * d), form_stride}; }
  /// The query of head h of token t, whose position is given, for a row.
  double dot(std::int64_t t, std::int64_t h, std::int64_t position, std::int64_t row, const auto& with) const {
    const std::int64_t form = query_form(row, position, chunk), i = h * d;
    double sum = 0;
    for (std::int64_t c = 0; c < d; ++c)
      sum += with(c) *
             (form == 0 ? q.get(t * stride + i + c) : older.get((form - 1) * form_stride + t * q_heads * d + i + c));
    return sum;
  }
};

/// K | V rows of one session for each slot.
struct Cache {
  DType act;
  std::int64_t slots, kv_heads, rows, d;
  Tensor kv{act, slots* kv_heads* rows * 2 * d};

  KvTile tile() { return {kv.at(0), rows * 2 * d * size_of(act), 0, rows, kv_heads * rows * 2 * d * size_of(act)}; }
  double key(std::int64_t slot, std::int64_t h, std::int64_t r, std::int64_t c) const {
    return kv.get(((slot * kv_heads + h) * rows + r) * 2 * d + c);
  }
  double value(std::int64_t slot, std::int64_t h, std::int64_t r, std::int64_t c) const {
    return key(slot, h, r, d + c);
  }
};

/// Softmax over the rows given, each asked with its form.
inline Doubles probabilities(const ThreeForms& q, const Cache& cache, std::int64_t slot, std::int64_t t, std::int64_t g,
                             std::int64_t position, const std::vector<std::int64_t>& rows) {
  const std::int64_t h = g / (q.q_heads / cache.kv_heads);
  Doubles p;
  double top = -INFINITY, sum = 0;
  for (std::int64_t r : rows) {
    p.push_back(q.dot(t, g, position, r, [&](std::int64_t c) { return cache.key(slot, h, r, c); }) /
                std::sqrt(static_cast<double>(q.d)));
    top = std::max(top, p.back());
  }
  for (double& x : p) sum += x = std::exp(x - top);
  for (double& x : p) x /= sum;
  return p;
}

/// Rows [first, last).
inline std::vector<std::int64_t> run_of(std::int64_t first, std::int64_t last) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(std::max<std::int64_t>(last - first, 0)));
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

/// Appends the output of one head of token t.
inline void add_output(Doubles& out, const ThreeForms& q, const Cache& cache, std::int64_t slot, std::int64_t t,
                       std::int64_t g, std::int64_t position, const std::vector<std::int64_t>& rows) {
  const std::int64_t h = g / (q.q_heads / cache.kv_heads);
  const Doubles p = probabilities(q, cache, slot, t, g, position, rows);
  for (std::int64_t c = 0; c < q.d; ++c) {
    double sum = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) sum += p[i] * cache.value(slot, h, rows[i], c);
    out.push_back(sum);
  }
}

/// What an attention leaves; everything NaN before.
struct Attended {
  Tensor o, m, l, out;
  Attended(DType act, std::int64_t heads, std::int64_t d)
      : o(DType::f32, heads * d), m(DType::f32, heads), l(DType::f32, heads), out(act, heads * d) {}
  AttnState view(std::int64_t i = 0) { return {o.floats() + i * o.size / m.size, m.floats() + i, l.floats() + i}; }
  bool operator==(const Attended& other) const {
    return m.bytes == other.m.bytes && l.bytes == other.l.bytes && out.bytes == other.out.bytes;
  }
};

inline float scale_of(std::int64_t d) { return 1 / std::sqrt(static_cast<float>(d)); }
inline double limit_of(DType act) { return act == DType::f32 ? 1e-11 : 2e-5; }

}  // namespace longhaul::test
