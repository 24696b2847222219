// Which of a query's forms asks which rows (QueryForms of ops.h), for operators that walk rows.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/base/error.h"
#include "kernels/cpu/rows.h"
#include "kernels/ops.h"

namespace longhaul::cpu {

inline constexpr std::int64_t kQueryForms = 3;

inline void check_forms(const QueryForms& forms) {
  check(forms.chunk >= 0 && forms.chunk % kChunkUnit == 0, "dual-chunk attention: a chunk is whole units of rows");
  check(forms.chunk == 0 || forms.older != nullptr, "dual-chunk attention: queries have older forms");
}

/// How many forms the query at `position` asks with: one in the first chunk.
inline std::int64_t forms_at(std::int64_t position, std::int64_t chunk) {
  return chunk == 0 ? 1 : std::min(position / chunk + 1, kQueryForms);
}

/// Where RoPE turns a query at `position` to, in one of its forms.
inline std::int64_t turned_to(std::int64_t form, std::int64_t position, std::int64_t chunk, std::int64_t reach) {
  if (chunk == 0) return position;
  const std::int64_t place = position % chunk;
  return form == 0 ? place : std::min(form == 1 ? place + chunk : 2 * chunk - 1, reach);
}

/// One form of token t's heads from q head `head` on, head_dim apart. Args: q, q_stride, forms, act, q_heads, head_dim.
template <class Args>
const std::byte* query_at(const Args& a, std::int64_t form, std::int64_t t, std::int64_t head) {
  if (form == 0) return at(a.q, a.act, t * a.q_stride + head * a.head_dim);
  return at(a.forms.older, a.act, (form - 1) * a.forms.form_stride + (t * a.q_heads + head) * a.head_dim);
}

/// body(begin, end, form) for the runs of one form that rows [first, last) fall into, for the query at `position`.
/// Rows after it, which it does not see, are the first form's.
template <class Body>
void for_each_form(std::int64_t first, std::int64_t last, std::int64_t position, std::int64_t chunk, const Body& body) {
  while (first < last) {
    const std::int64_t form = query_form(std::min(first, position), position, chunk);
    std::int64_t end = last;
    if (chunk > 0) {
      // The oldest form asks all rows of the chunks that it is for.
      const std::int64_t next = form == 2 ? position / chunk - 1 : first / chunk + 1;
      end = std::min(last, next * chunk);
    }
    body(first, end, form);
    first = end;
  }
}

}  // namespace longhaul::cpu
