// Attention over listed rows: the bits of attend(), wherever the rows are, whenever they came, and whoever else is in
// the batch.
#include <functional>
#include <numeric>

#include "kernels/cpu/ops.h"
#include "tests/support/batch.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/isa.h"
#include "tests/support/random.h"
#include "tests/support/reference.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

using Ints = std::vector<std::int32_t>;

struct Case {
  DType act;
  std::int64_t kv_heads, group, d, rows;
  Batch batch;
  std::int64_t q_heads = kv_heads * group, q_stride = q_heads * d + 8, stride = rows + 5;
  std::int64_t row_bytes = 2 * d * size_of(act), lists = batch.count * kv_heads;
  float scale = 1 / std::sqrt(static_cast<float>(d));
  Tensor q{act, batch.count*q_stride}, kv{act, batch.slots*kv_heads*rows * 2 * d};
  Ints list = Ints(lists * stride, -1), count = Ints(lists), places = list, landed = count, missed = count;
  std::vector<Tensor> regions{};  // prefix, ring, cache, staging: each [slots, kv_heads, rows] rows, NaN where none is

  /// What an attention leaves.
  struct Result {
    Tensor o, m, l, scores, out;
    bool operator==(const Result& other) const {
      return m.bytes == other.m.bytes && l.bytes == other.l.bytes && out.bytes == other.out.bytes;
    }
  };

  Case(DType act_, Random& random, std::int64_t kv_heads_, std::int64_t group_, std::int64_t d_, std::int64_t rows_)
      : act(act_), kv_heads(kv_heads_), group(group_), d(d_), rows(rows_), batch(random, random.integer(1, 3), rows_) {
    q = random.normal(act, q.size);
    kv = random.normal(act, kv.size);
    for (StepSpan& span : batch.spans) span.rows = static_cast<std::int32_t>(rows);
  }

  KvTile tile(Tensor& t) { return {t.bytes.data(), rows * row_bytes, 0, rows, kv_heads * rows * row_bytes}; }
  /// Of the n-th list's session and KV head.
  std::int64_t head(std::int64_t n) const { return batch.spans[n / kv_heads].slot * kv_heads + n % kv_heads; }
  Result result() const {
    const DType f = DType::f32;
    const std::int64_t heads = batch.count * q_heads;
    return {{f, heads * d}, {f, heads}, {f, heads}, {f, heads * stride}, {act, heads * d}};
  }

  /// Lists each row with this chance in percent.
  void list_some(Random& random, std::int64_t percent) {
    for (std::int64_t n = 0; n < lists; ++n) {
      count[n] = 0;
      for (std::int64_t r = 0; r < rows; ++r)
        if (random.integer(0, 99) < percent) list[n * stride + count[n]++] = static_cast<std::int32_t>(r);
    }
  }

  /// Puts every listed row into a region at random; a few of those in staging are said to have landed.
  void scatter(Random& random) {
    regions.assign(4, Tensor(act, kv.size));
    for (std::int64_t n = 0; n < lists; ++n) {
      std::int64_t used[4] = {};
      for (std::int64_t i = 0; i < count[n]; ++i) {
        const auto region = static_cast<Region>(random.integer(0, 3));
        const std::int64_t index = used[static_cast<int>(region)]++;
        places[n * stride + i] = row_place(region, index);
        const std::int64_t run = region == Region::staging ? n : head(n);
        std::memcpy(regions[static_cast<int>(region)].bytes.data() + (run * rows + index) * row_bytes,
                    kv.bytes.data() + (head(n) * rows + list[n * stride + i]) * row_bytes, row_bytes);
      }
      landed[n] = static_cast<std::int32_t>(random.integer(0, used[3]));
      missed[n] = static_cast<std::int32_t>(used[3]) - landed[n];
    }
  }

  AttendListArgs args(Result& out, bool placed) {
    AttendListArgs a{.q = q.data(),
                     .q_stride = q_stride,
                     .batch = batch.view(),
                     .rows = {list.data(), count.data(), stride},
                     .scores = out.scores.floats(),
                     .keep_scores = true,
                     .state = {out.o.floats(), out.m.floats(), out.l.floats()},
                     .act = act,
                     .q_heads = q_heads,
                     .kv_heads = kv_heads,
                     .head_dim = d,
                     .scale = scale};
    if (placed) {
      a.places = places.data();
      a.landed = landed.data();
      a.missed = missed.data();
      a.regions = {tile(regions[0]), tile(regions[1]), tile(regions[2]), tile(regions[3])};
    } else {
      a.regions.prefix = tile(kv);
    }
    return a;
  }

  Result at_once(bool placed) {
    Result out = result();
    cpu::finish_list({args(out, placed), false, out.out.data()});
    return out;
  }
  /// Rows that have not landed are not there before the second half.
  Result in_halves() {
    Result out = result();
    const std::vector<Tensor> all = regions;
    for (std::int64_t n = 0; n < lists; ++n)
      for (std::int64_t i = (n * rows + landed[n]) * 2 * d; i < (n + 1) * rows * 2 * d; ++i) regions[3].set(i, NAN);
    cpu::score_list({args(out, true)});
    regions = all;
    cpu::finish_list({args(out, true), true, out.out.data()});
    return out;
  }
};

void for_each_case(Random& random, const std::function<void(Case&)>& body) {
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64, 80, 128})
      for (std::int64_t group : {1, 2, 3, 4, 7})
        for_each_isa([&] {
          Case c(act, random, random.integer(1, 3), group, d, random.integer(1, random.integer(0, 1) ? 70 : 400));
          INFO(name_of(act) << " d " << d << " group " << group << " rows " << c.rows);
          body(c);
        });
}

}  // namespace

TEST_CASE("attend_list: a list of all rows has the bits of attend") {
  Random random(80);
  for_each_case(random, [&](Case& c) {
    c.list_some(random, 100);
    Case::Result want = c.result();
    const AttnState state{want.o.floats(), want.m.floats(), want.l.floats()};
    cpu::attend_step({c.q.data(), c.q_stride, c.batch.view(), c.tile(c.kv), StepRows::tile, state, nullptr, true, c.act,
                      c.q_heads, c.kv_heads, c.d, c.scale});
    cpu::finish({state, want.out.data(), c.act, c.batch.count, c.q_heads, c.d});
    CHECK(c.at_once(false) == want);
    c.scatter(random);
    CHECK(c.at_once(true) == want);
    CHECK(c.in_halves() == want);
  });
}

TEST_CASE("attend_list: the same rows give the same bits anywhere, and those of the definition", "[numbers]") {
  Random random(81);
  for_each_case(random, [&](Case& c) {
    for (std::int64_t percent : {0, 20, 90}) {
      c.list_some(random, percent);
      Case::Result want = c.at_once(false);
      for (int again = 0; again < 3; ++again) {
        c.scatter(random);
        CHECK(c.at_once(true) == want);
        const Case::Result halves = c.in_halves();
        CHECK(halves == want);
        CHECK(halves.scores.bytes == want.scores.bytes);
      }
      const Doubles queries = c.q.values(), cache = c.kv.values();
      for (std::int64_t i = 0; i < c.batch.count * c.q_heads; ++i) {
        const std::int64_t n = i / c.group, count = c.count[n];
        Doubles rows;
        for (std::int64_t e = 0; e < count; ++e) {
          auto at = cache.begin() + (c.head(n) * c.rows + c.list[n * c.stride + e]) * 2 * c.d;
          rows.insert(rows.end(), at, at + 2 * c.d);
        }
        auto q = queries.begin() + i / c.q_heads * c.q_stride + i % c.q_heads * c.d;
        const auto one = reference_attend({q, q + c.d}, rows, count, c.scale);
        Doubles got(c.d);
        for (std::int64_t e = 0; e < c.d; ++e) got[e] = want.out.get(i * c.d + e);
        CHECK(nmse(got, one.finished()) <= (c.act == DType::bf16 ? 1e-5 : 1e-10));
        if (count == 0) CHECK((want.m.get(i) == -INFINITY && want.l.get(i) == 0 && want.out.get(i * c.d) == 0));
        else CHECK(want.m.get(i) == Approx(one.m).epsilon(1e-5).margin(1e-5));
      }
    }
  });
}
