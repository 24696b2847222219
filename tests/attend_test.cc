// attend on the CPU: against the definition over head sizes, groups and positions; attend_step: law 1, bit for bit.
#include "kernels/base/bytes.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd/simd.h"
#include "tests/support/batch.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/isa.h"
#include "tests/support/random.h"
#include "tests/support/reference.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// Queries and a cache of `rows` rows. Queries are wider than needed and heads have rows to spare, all NaN.
struct Case {
  DType act;
  std::int64_t tokens, group, kv_heads, d, rows, q_pos, first = 0;
  std::int64_t q_heads = group * kv_heads, q_stride = q_heads * d + 8, head_stride = (rows + 3) * 2 * d;
  Tensor q{act, tokens*q_stride}, kv{act, kv_heads*head_stride};
  float scale = 1 / std::sqrt(static_cast<float>(d));

  std::int64_t window = 0;

  Doubles want{}, tops{};  // finished outputs; maxima of the scores

  void fill(Random& random, bool with_reference = true) {
    Tensor some_q = random.normal(act, tokens * q_heads * d), some_kv = random.normal(act, kv_heads * rows * 2 * d);
    for (std::int64_t i = 0; i < some_q.size; ++i)
      q.set(i / (q_heads * d) * q_stride + i % (q_heads * d), some_q.get(i));
    for (std::int64_t i = 0; i < some_kv.size; ++i)
      kv.set(i / (rows * 2 * d) * head_stride + i % (rows * 2 * d), some_kv.get(i));
    if (!with_reference) return;
    const Doubles queries = q.values(), cache = kv.values();
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t h = 0; h < q_heads; ++h) {
        auto query = queries.begin() + t * q_stride + h * d, rows_of_head = cache.begin() + h / group * head_stride;
        const std::int64_t before = std::clamp<std::int64_t>(q_pos + t + 1 - window - first, 0, rows);
        const std::int64_t hidden = window > 0 ? before : 0;
        const auto one =
            reference_attend({query, query + d}, {rows_of_head + hidden * 2 * d, rows_of_head + rows * 2 * d},
                             std::max<std::int64_t>(0, visible(t) - hidden), scale);
        const Doubles finished = one.finished();
        want.insert(want.end(), finished.begin(), finished.end());
        tops.push_back(one.m);
      }
  }
  std::int64_t visible(std::int64_t t) const { return std::clamp<std::int64_t>(q_pos + t + 1 - first, 0, rows); }
};

/// What an attention leaves; everything NaN before.
struct Result {
  Tensor o, m, l, out;
  Result(DType act, std::int64_t heads, std::int64_t d)
      : o(DType::f32, heads * d), m(DType::f32, heads), l(DType::f32, heads), out(act, heads * d) {}
  /// From the i-th (token, head) on.
  AttnState view(std::int64_t i = 0) { return {o.floats() + i * o.size / m.size, m.floats() + i, l.floats() + i}; }
  bool operator==(const Result& other) const {
    return m.bytes == other.m.bytes && l.bytes == other.l.bytes && out.bytes == other.out.bytes;
  }
};

void check_case(Case& c) {
  INFO(name_of(c.act) << " tokens " << c.tokens << " group " << c.group << " d " << c.d << " rows " << c.rows << " at "
                      << c.q_pos);
  Result got(c.act, c.tokens * c.q_heads, c.d);
  const KvTile tile{c.kv.at(0), c.head_stride * size_of(c.act), c.first, c.rows};
  cpu::attend({c.q.data(), c.q_stride, tile, got.view(), got.out.data(), c.act, c.tokens, c.q_heads, c.kv_heads, c.d,
               c.q_pos, c.scale, c.window});
  for (std::size_t i = 0; i < c.tops.size(); ++i)
    if (std::isinf(c.tops[i])) CHECK(got.m.get(i) == c.tops[i]);
    else CHECK(got.m.get(i) == Approx(c.tops[i]).epsilon(1e-5).margin(1e-5));
  // Rounding the output costs 1.3e-6; the matrix path rounds probabilities to bf16 too, as GPU kernels do.
  const double limit = c.act == DType::f32 ? 1e-12 : c.tokens > 16 ? 8e-6 : 4e-6;
  INFO(first_bad(got.out.values(), c.want, c.d, 100 * std::sqrt(limit)));
  CHECK(nmse(got.out.values(), c.want) <= limit);
}

/// Sessions of which a step attends all rows: a prefix, tiles of a store, a ring.
struct Step {
  DType act;
  std::int64_t group, kv_heads, d;
  Batch batch;
  std::int64_t prefix_rows, ring_rows;
  std::int64_t q_heads = group * kv_heads, q_stride = q_heads * d + 8, row = 2 * d;
  Tensor q{act, batch.count*q_stride}, store{act, batch.slots*kv_heads*batch.capacity*row},
      prefix{act, batch.slots*kv_heads*prefix_rows*row}, ring{act, batch.slots*kv_heads*ring_rows*row};
  float scale = 1 / std::sqrt(static_cast<float>(d));

  void fill(Random& random) {
    q = random.normal(act, q.size);
    for (StepSpan& span : batch.spans) {
      span.rows = static_cast<std::int32_t>(random.integer(1, batch.capacity));
      const std::int64_t oldest = round_up(std::max<std::int64_t>(span.rows - ring_rows, 0), kAttendBlock);
      const std::int64_t first = ring_rows > 0 ? std::max(prefix_rows, oldest) : span.rows;
      span.ring_first = static_cast<std::int32_t>(std::min<std::int64_t>(first, span.rows));
      for (std::int64_t h = 0; h < kv_heads; ++h) {
        const std::int64_t head = span.slot * kv_heads + h;
        const Tensor rows = random.normal(act, span.rows * row);
        for (std::int64_t r = 0; r < span.rows; ++r) {
          auto put = [&](Tensor& to, std::int64_t at) {
            std::memcpy(to.at(at * row), rows.bytes.data() + r * row * size_of(act), row * size_of(act));
          };
          put(store, head * batch.capacity + r);
          if (r < prefix_rows) put(prefix, head * prefix_rows + r);
          if (r >= span.ring_first) put(ring, head * ring_rows + r % ring_rows);
        }
      }
    }
  }
  KvTile tile(Tensor& t, std::int64_t rows) {
    const std::int64_t stride = rows * row * size_of(act);
    return {t.at(0), stride, 0, rows, kv_heads * stride};
  }
  void attend(Result& to, const StepBatch& spans, std::int64_t place, const KvTile& kv, StepRows from, bool fresh) {
    cpu::attend_step({q.at(place * q_stride), q_stride, spans, kv, from, to.view(place * q_heads), nullptr, fresh, act,
                      q_heads, kv_heads, d, scale});
  }
  Result finished(Result r) {
    cpu::finish({r.view(), r.out.data(), act, batch.count, q_heads, d});
    return r;
  }
  /// Every session's rows in one run.
  Result whole() {
    Result r(act, batch.count * q_heads, d);
    const KvTile all = tile(store, batch.capacity);
    for (std::int64_t t = 0; t < batch.count; ++t) {
      const StepSpan& span = batch.spans[t];
      const KvTile own{all.data + span.slot * all.session_stride, all.head_stride, 0, span.rows};
      cpu::attend({q.at(t * q_stride), q_stride, own, r.view(t * q_heads), r.out.at(t * q_heads * d), act, 1, q_heads,
                   kv_heads, d, span.rows - 1, scale});
    }
    return r;
  }
  /// As a decode step does it, the store's rows in tiles of so many.
  Result cut(std::int64_t tile_rows) {
    Result r(act, batch.count * q_heads, d);
    attend(r, batch.view(), 0, tile(prefix, prefix_rows), StepRows::tile, true);
    for (std::int64_t t = 0; t < batch.count; ++t) {
      const StepSpan& span = batch.spans[t];
      for (std::int64_t first = prefix_rows; first < span.ring_first; first += tile_rows) {
        KvTile part = tile(store, batch.capacity);
        part.data += span.slot * part.session_stride + first * row * size_of(act);
        part.session_stride = 0, part.first = first, part.rows = std::min(tile_rows, span.ring_first - first);
        attend(r, batch.one(t), t, part, StepRows::tile, false);
      }
    }
    if (ring_rows > 0) attend(r, batch.view(), 0, tile(ring, ring_rows), StepRows::ring, false);
    return finished(std::move(r));
  }
};

}  // namespace

TEST_CASE("attend: few tokens") {
  Random random(20);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64, 80, 128, 256})
      for (std::int64_t group : {1, 2, 3, 4, 8})
        for_each_isa([&] {
          const std::int64_t rows = random.integer(1, 300), tokens = random.integer(1, 5);
          Case c{act, tokens, group, 2, d, rows, random.integer(0, rows)};
          c.fill(random);
          check_case(c);
        });
}

TEST_CASE("attend: many tokens", "[numbers]") {
  Random random(21);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64, 80, 128, 256})
      for (std::int64_t group : {1, 3}) {
        const std::int64_t rows = random.integer(17, 700), tokens = random.integer(17, 300);
        Case c{act, tokens, group, 2, d, rows, random.integer(0, rows)};
        c.fill(random);
        for (bool bf16_gemm : {true, false})
          for_each_isa([&] {
            cpu::set_bf16_gemm(bf16_gemm);
            check_case(c);
            cpu::set_bf16_gemm(true);
          });
      }
}

TEST_CASE("attend: a tile that some or all tokens do not see, one that begins later, an empty one", "[numbers]") {
  Random random(22);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t tokens : {3, 5, 40, 270})
      for (std::int64_t q_pos : {-2, 0, 62, 63, 64, 100, 511})
        for (std::int64_t first : {0, 64})
          for (std::int64_t rows : {0, 1, 576})
            for_each_isa([&] {
              Case c{act, tokens, 2, 1, 64, rows, q_pos, first};
              c.fill(random);
              check_case(c);
            });
}

TEST_CASE("attend: a window, over tokens that see its beginning in one block, in several, or nothing", "[numbers]") {
  Random random(25);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t tokens : {3, 40, 270})
      for (std::int64_t q_pos : {0, 63, 600, 1100})
        for (std::int64_t first : {0, 64})
          for (std::int64_t window : {1, 5, 64, 100, 700})
            for_each_isa([&] {
              Case c{act, tokens, 2, 1, 64, 1000, q_pos, first};
              c.window = window;
              c.fill(random);
              INFO("window " << window << " first " << first);
              check_case(c);
            });
}

TEST_CASE("attend_step: a window, from a ring that holds it, leaves the bits of one run", "[numbers]") {
  Random random(26);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 64, 80, 128})
      for (std::int64_t group : {1, 3})
        for (std::int64_t window : {1, 64, 100, 128})
          for_each_isa([&] {
            Step s{act, group, 2, d, Batch(random, 3, 640), 0, 192};
            s.fill(random);
            Result got(act, s.batch.count * s.q_heads, d), want = got;
            cpu::attend_step({s.q.data(), s.q_stride, s.batch.view(), s.tile(s.ring, s.ring_rows), StepRows::ring,
                              got.view(), nullptr, true, act, s.q_heads, s.kv_heads, d, s.scale, window});
            for (std::int64_t t = 0; t < s.batch.count; ++t) {
              const StepSpan& span = s.batch.spans[t];
              KvTile own = s.tile(s.store, s.batch.capacity);
              own.data += span.slot * own.session_stride;
              own.rows = span.rows;
              cpu::attend({s.q.at(t * s.q_stride), s.q_stride, own, want.view(t * s.q_heads),
                           want.out.at(t * s.q_heads * d), act, 1, s.q_heads, s.kv_heads, d, span.rows - 1, s.scale,
                           window});
            }
            CHECK(s.finished(got) == want);
          });
}

TEST_CASE("attend_step: prefix, tiles and ring of a batch leave the bits of one run (law 1)", "[numbers]") {
  Random random(23);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 64, 80, 128})
      for (std::int64_t group : {1, 3, 4})
        for (std::int64_t prefix : {0, 64, 192})
          for (std::int64_t ring : {64, 192})
            for_each_isa([&] {
              Step s{act, group, 2, d, Batch(random, random.integer(1, 4), 640), prefix, ring};
              s.fill(random);
              const Result want = s.whole();
              for (std::int64_t tile_rows : {64, 128, 1024}) CHECK(s.cut(tile_rows) == want);
            });
}

TEST_CASE("attend_step: every row resident, and no ring") {
  Random random(24);
  for (DType act : {DType::bf16, DType::f32})
    for_each_isa([&] {
      Step s{act, 2, 3, 24, Batch(random, 3, 320), 320, 0};
      s.fill(random);
      CHECK(s.cut(64) == s.whole());
    });
}
