// What a fit looks at: rows of one KV head that stand for all, and the forms in which its queries ask them (QueryForms
// of ops.h): plain attention has one.
#pragma once
#include <algorithm>
#include <cmath>

#include "kernels/base/bytes.h"
#include "kernels/cpu/query_forms.h"
#include "kernels/sparse_ops.h"

namespace longhaul::cpu {

/// `count` keys that stand for the `rows` rows of a prompt, as fit_key() chooses them.
struct FitKeys {
  std::int64_t count, rows, chunk, reach;

  /// body(begin, end, form) for the runs of keys that the query at `position` asks with one form.
  template <class Body>
  void for_each(std::int64_t position, const Body& body) const {
    for_each_form(0, rows, position, chunk, [&](std::int64_t begin, std::int64_t end, std::int64_t form) {
      const std::int64_t first = ceil_div(begin * count, rows), last = ceil_div(end * count, rows);
      if (first < last) body(first, last, form);
    });
  }
  /// How far RoPE turns a query that is in its own form at `from`, for `form` at `position`.
  std::int64_t turn(std::int64_t form, std::int64_t position, std::int64_t from) const {
    return turned_to(form, position, chunk, reach) - turned_to(0, from, chunk, reach);
  }
  /// Takes over what `form` asks: a line's scores in `scores` become those of `other`, each [count].
  void take(std::int64_t form, std::int64_t position, const float* other, float* scores) const {
    for_each(position, [&](std::int64_t begin, std::int64_t end, std::int64_t of) {
      if (of == form) std::copy(other + begin, other + end, scores + begin);
    });
  }
};

/// Those of one KV head, as activations: each a key and a value.
struct FitRows {
  const std::byte* data;
  DType act;
  std::int64_t count, padded, dim;  // padded: count, rounded up to whole blocks

  std::int64_t stride() const { return 2 * dim; }
  const std::byte* key(std::int64_t i) const { return at(data, act, i * stride()); }
  const std::byte* value(std::int64_t i) const { return at(data, act, i * stride() + dim); }
};

/// Cosines, then sines, [head_dim], of turning by so many positions.
inline void fill_turn(std::int64_t by, const float* inv_freq, std::int64_t head_dim, float* turn) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t c = 0; c < half; ++c) {
    const double angle = static_cast<double>(by) * inv_freq[c];
    turn[c] = static_cast<float>(std::cos(angle));
    turn[half + c] = static_cast<float>(std::sin(angle));
  }
}

}  // namespace longhaul::cpu
