// Attention over listed rows: the bits of attend(), wherever the rows are and whenever they came.
#include <functional>
#include <numeric>

#include "kernels/cpu/ops.h"
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
  std::int64_t q_heads = kv_heads * group, stride = rows + 5, row_bytes = 2 * d * size_of(act);
  float scale = 1 / std::sqrt(static_cast<float>(d));
  Tensor q{act, q_heads*d}, kv{act, kv_heads*rows * 2 * d};
  Ints list = Ints(kv_heads * stride, -1), count = Ints(kv_heads), places = list, landed = Ints(kv_heads);
  std::vector<Tensor> regions{};  // prefix, ring, cache, staging: each [kv_heads, rows] rows, NaN where none is

  /// What an attention leaves.
  struct Result {
    Tensor o, m, l, scores;
    bool operator==(const Result& other) const {
      return o.bytes == other.o.bytes && m.bytes == other.m.bytes && l.bytes == other.l.bytes;
    }
  };

  explicit Case(DType act_, Random& random, std::int64_t kv_heads_, std::int64_t group_, std::int64_t d_,
                std::int64_t rows_)
      : act(act_), kv_heads(kv_heads_), group(group_), d(d_), rows(rows_) {
    q = random.normal(act, q_heads * d);
    kv = random.normal(act, kv_heads * rows * 2 * d);
  }

  KvTile tile(Tensor& t) { return {t.bytes.data(), rows * row_bytes, 0, rows}; }
  Result result() const {
    const DType f = DType::f32;
    return {{f, q_heads * d}, {f, q_heads}, {f, q_heads}, {f, q_heads * stride}};
  }

  /// Lists each row with this chance in percent.
  void list_some(Random& random, std::int64_t percent) {
    for (std::int64_t h = 0; h < kv_heads; ++h) {
      count[h] = 0;
      for (std::int64_t r = 0; r < rows; ++r)
        if (random.integer(0, 99) < percent) list[h * stride + count[h]++] = static_cast<std::int32_t>(r);
    }
  }

  /// Puts every listed row into a region at random; a few of those in staging are said to have landed.
  void scatter(Random& random) {
    regions.assign(4, Tensor(act, kv.size));
    for (std::int64_t h = 0; h < kv_heads; ++h) {
      std::int64_t used[4] = {};
      for (std::int64_t i = 0; i < count[h]; ++i) {
        const auto region = static_cast<Region>(random.integer(0, 3));
        const std::int64_t index = used[static_cast<int>(region)]++;
        places[h * stride + i] = row_place(region, index);
        std::memcpy(regions[static_cast<int>(region)].bytes.data() + (h * rows + index) * row_bytes,
                    kv.bytes.data() + (h * rows + list[h * stride + i]) * row_bytes, row_bytes);
      }
      landed[h] = static_cast<std::int32_t>(random.integer(0, used[3]));
    }
  }

  AttendListArgs args(Result& out, bool placed) {
    AttendListArgs a{.q = q.data(),
                     .rows = {list.data(), count.data(), stride},
                     .scores = out.scores.floats(),
                     .state = {out.o.floats(), out.m.floats(), out.l.floats()},
                     .act = act,
                     .q_heads = q_heads,
                     .kv_heads = kv_heads,
                     .head_dim = d,
                     .scale = scale};
    if (placed) {
      a.places = places.data();
      a.landed = landed.data();
      a.regions = {tile(regions[0]), tile(regions[1]), tile(regions[2]), tile(regions[3])};
    } else {
      a.regions.prefix = tile(kv);
    }
    return a;
  }

  Result at_once(bool placed) {
    Result out = result();
    cpu::finish_list({args(out, placed), false});
    return out;
  }
  /// Rows that have not landed are not there before the second half.
  Result in_halves() {
    Result out = result();
    const std::vector<Tensor> all = regions;
    for (std::int64_t h = 0; h < kv_heads; ++h)
      for (std::int64_t i = (h * rows + landed[h]) * 2 * d; i < (h + 1) * rows * 2 * d; ++i) regions[3].set(i, NAN);
    cpu::score_list({args(out, true)});
    regions = all;
    cpu::finish_list({args(out, true), true});
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
    cpu::attend({c.q.data(),
                 c.q_heads * c.d,
                 c.tile(c.kv),
                 {want.o.floats(), want.m.floats(), want.l.floats()},
                 true,
                 c.act,
                 1,
                 c.q_heads,
                 c.kv_heads,
                 c.d,
                 c.rows - 1,
                 c.scale});
    CHECK(c.at_once(false) == want);
    c.scatter(random);
    CHECK(c.at_once(true) == want);
    CHECK(c.in_halves() == want);
  });
}

TEST_CASE("attend_list: the same rows give the same bits anywhere, and those of the definition") {
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
      for (std::int64_t h = 0; h < c.q_heads; ++h) {
        Doubles rows;
        const std::int64_t head = h / c.group;
        for (std::int64_t i = 0; i < c.count[head]; ++i) {
          auto at = cache.begin() + (head * c.rows + c.list[head * c.stride + i]) * 2 * c.d;
          rows.insert(rows.end(), at, at + 2 * c.d);
        }
        const auto one = reference_attend({queries.begin() + h * c.d, queries.begin() + (h + 1) * c.d}, rows,
                                          c.count[head], c.scale);
        Doubles got(c.d);
        for (std::int64_t i = 0; i < c.d; ++i) got[i] = want.l.get(h) > 0 ? want.o.get(h * c.d + i) / want.l.get(h) : 0;
        CHECK(nmse(got, one.finished()) <= 1e-10);
        if (c.count[head] == 0) CHECK((want.m.get(h) == -INFINITY && want.l.get(h) == 0 && want.o.get(h * c.d) == 0));
        else CHECK(want.m.get(h) == Approx(one.m).epsilon(1e-5).margin(1e-5));
      }
    }
  });
}
