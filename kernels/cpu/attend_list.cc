// score_list, finish_list: attention over listed rows, block by block of the list, wherever the rows are.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/parallel.h"
#include "kernels/cpu/lists.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/query_forms.h"
#include "kernels/cpu/row_codes.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

using RowPointer = const std::byte*;

void check_list(const AttendListArgs& a) {
  check(a.head_dim % 8 == 0 && a.head_dim <= 256, "attend_list: head_dim is a multiple of 8 up to 256");
  const Regions& r = a.regions;
  check(a.places == nullptr ||
            (r.ring.type == r.prefix.type && r.cache.type == r.prefix.type && r.staging.type == r.prefix.type),
        "attend_list: the regions' rows are of one type");
  check_forms(a.forms);
}

/// The n-th list of the batch.
class Listed {
 public:
  Listed(const AttendListArgs& a, std::int64_t n)
      : row_bytes_(row_bytes(a.regions.prefix.type, a.head_dim, a.act)),
        rows_(a.rows.rows + n * a.rows.stride),
        places_(a.places ? a.places + n * a.rows.stride : nullptr),
        landed_(a.landed ? a.landed[n] : std::numeric_limits<std::int32_t>::max()) {
    const std::int64_t place = n / a.kv_heads, slot = a.batch.spans[place].slot;
    const KvTile tiles[] = {tile_of(a.regions.prefix, slot), tile_of(a.regions.ring, slot),
                            tile_of(a.regions.cache, slot), tile_of(a.regions.staging, place)};
    for (int i = 0; i < 4; ++i) regions_[i] = tiles[i].data + n % a.kv_heads * tiles[i].head_stride;
  }

  RowPointer operator[](std::int64_t i) const {
    if (!places_) return regions_[0] + rows_[i] * row_bytes_;
    return regions_[static_cast<int>(place_region(places_[i]))] + place_index(places_[i]) * row_bytes_;
  }
  std::int32_t row(std::int64_t i) const { return rows_[i]; }
  bool landed(std::int64_t i) const {
    return !places_ || place_region(places_[i]) != Region::staging || place_index(places_[i]) < landed_;
  }

 private:
  std::int64_t row_bytes_;
  const std::int32_t *rows_, *places_;
  std::int64_t landed_;
  const std::byte* regions_[4];
};

/// The group's queries that the n-th list is for, times scale: in every form that they ask with.
class ListQueries {
 public:
  ListQueries(const AttendListArgs& a, std::int64_t n, Scratch& scratch)
      : position_(a.batch.spans[n / a.kv_heads].rows - 1),
        chunk_(a.forms.chunk),
        size_(a.q_heads / a.kv_heads * a.head_dim),
        q_(scratch.get<float>((forms_at(position_, chunk_) + 1) * size_)) {
    const std::int64_t forms = forms_at(position_, chunk_), head = n % a.kv_heads * (size_ / a.head_dim);
    for (std::int64_t form = 0; form < forms; ++form)
      simd().scale(read_row(query_at(a, form, n / a.kv_heads, head), a.act, size_, q_ + forms * size_), a.scale,
                   q_ + form * size_, size_);
  }
  const float* operator[](std::int64_t row) const { return q_ + query_form(row, position_, chunk_) * size_; }

 private:
  std::int64_t position_, chunk_, size_;
  float* q_;
};

ListedRowsArgs arguments(const AttendListArgs& a, std::int64_t n) {
  const std::int64_t group = a.q_heads / a.kv_heads, first = n * group;
  return {.scores = a.scores + first * a.rows.stride,
          .score_stride = a.rows.stride,
          .o = a.state.o + first * a.head_dim,
          .m = a.state.m + first,
          .l = a.state.l + first,
          .row_bytes = row_bytes(a.regions.prefix.type, a.head_dim, a.act),
          .heads = group,
          .head_dim = a.head_dim};
}

/// The scores of those entries of [begin, end), at most a block, that `wanted` picks.
template <class Wanted>
void score_some(const AttendListArgs& a, const Listed& list, const ListQueries& queries, ListedRowsArgs rows,
                std::int64_t begin, std::int64_t end, const Wanted& wanted) {
  RowPointer pointers[kAttendBlock];
  std::int64_t entries[kAttendBlock];
  thread_local Scratch scratch;
  float *to = rows.scores, *some = scratch.get<float>(rows.heads * kAttendBlock);
  for (std::int64_t i = begin; i < end;) {  // a run of one form at a time
    rows.q = queries[list.row(i)];
    std::int64_t n = 0;
    for (; i < end && queries[list.row(i)] == rows.q; ++i)
      if (wanted(i)) pointers[n] = list[i], entries[n++] = i;
    if (n == 0) continue;
    rows.rows = pointers, rows.count = n, rows.ahead = 0, rows.scores = some, rows.score_stride = kAttendBlock;
    row_loops(a.regions.prefix.type, a.act).score_listed(rows);
    for (std::int64_t h = 0; h < rows.heads; ++h)
      for (std::int64_t e = 0; e < n; ++e) to[h * a.rows.stride + entries[e]] = some[h * kAttendBlock + e];
  }
}

/// The rows that are not listed, as one, for query head g of the group of list n.
void add_tail(const FinishListArgs& args, std::int64_t n, std::int64_t g, const ListedRowsArgs& rows) {
  const AttendListArgs& a = args.list;
  const float tail = a.rows.tail[n * rows.heads + g];
  if (!(tail > kNoTail)) return;  // the bits of a list of all rows stay those of dense attention
  const std::int64_t d = a.head_dim;
  const float top = std::max(rows.m[g], tail), kept = std::exp(rows.m[g] - top), weight = std::exp(tail - top);
  const float* mean = args.mean + a.batch.spans[n / a.kv_heads].slot * args.mean_session_stride + n % a.kv_heads * d;
  for (std::int64_t i = 0; i < d; ++i) rows.o[g * d + i] = rows.o[g * d + i] * kept + weight * mean[i];
  rows.l[g] = rows.l[g] * kept + weight;
  rows.m[g] = top;
}

}  // namespace

void score_list(const ScoreListArgs& args) {
  const AttendListArgs& a = args.list;
  check_list(a);
  constexpr std::int64_t kPiece = 4 * kAttendBlock;
  const std::int64_t lists = a.batch.count * a.kv_heads;
  std::int64_t most = 0;
  for (std::int64_t n = 0; n < lists; ++n) most = std::max<std::int64_t>(most, a.rows.count[n]);
  const std::int64_t pieces = ceil_div(most, kPiece);
  parallel_for(lists * pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    for (std::int64_t p = begin; p < end; ++p) {
      const std::int64_t n = p / pieces, first = p % pieces * kPiece;
      const std::int64_t last = std::min<std::int64_t>(first + kPiece, a.rows.count[n]);
      if (first >= last) continue;
      const Listed list(a, n);
      const ListQueries queries(a, n, scratch);
      const ListedRowsArgs rows = arguments(a, n);
      for (std::int64_t i = first; i < last; i += kAttendBlock)
        score_some(a, list, queries, rows, i, std::min(i + kAttendBlock, last),
                   [&](std::int64_t e) { return list.landed(e); });
    }
  });
}

void finish_list(const FinishListArgs& args) {
  const AttendListArgs& a = args.list;
  check_list(a);
  const std::int64_t group = a.q_heads / a.kv_heads;
  parallel_for(a.batch.count * a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch q_scratch, scratch;
    for (std::int64_t l = begin; l < end; ++l) {
      const Listed list(a, l);
      const ListQueries queries(a, l, q_scratch);
      const RowLoops& loops = row_loops(a.regions.prefix.type, a.act);
      ListedRowsArgs rows = arguments(a, l);
      std::fill_n(rows.o, group * a.head_dim, 0.0f);
      std::fill_n(rows.m, group, -std::numeric_limits<float>::infinity());
      std::fill_n(rows.l, group, 0.0f);
      const std::int64_t count = a.rows.count[l];
      RowPointer* pointers = scratch.get<RowPointer>(count);
      for (std::int64_t i = 0; i < count; ++i) pointers[i] = list[i];
      float* const scores = rows.scores;
      for (std::int64_t i = 0; i < count; i += kAttendBlock) {
        const std::int64_t n = std::min(kAttendBlock, count - i);
        if (args.scored) score_some(a, list, queries, rows, i, i + n, [&](std::int64_t e) { return !list.landed(e); });
        else
          for (std::int64_t e = i, next; e < i + n; e = next) {  // a run of one form at a time
            rows.q = queries[list.row(e)];
            for (next = e + 1; next < i + n && queries[list.row(next)] == rows.q;) ++next;
            rows.rows = pointers + e, rows.count = next - e, rows.ahead = count - next, rows.scores = scores + e;
            loops.score_listed(rows);
          }
        rows.rows = pointers + i, rows.count = n, rows.ahead = count - i - n, rows.scores = scores + i;
        loops.add_listed(rows);
        rows.scores = scores;
      }
      if (args.mean == nullptr || a.rows.tail == nullptr) continue;
      for (std::int64_t g = 0; g < group; ++g) add_tail(args, l, g, rows);
    }
  });
  finish({a.state, args.out, a.act, a.batch.count, a.q_heads, a.head_dim});
}

}  // namespace longhaul::cpu
