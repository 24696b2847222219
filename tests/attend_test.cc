// attend on the CPU: against the definition over head sizes, groups, tiles and positions; and law 1, bit for bit.
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/simd/simd.h"
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
  std::int64_t tokens, group, kv_heads, d, rows, q_pos;
  std::int64_t q_heads = group * kv_heads, q_stride = q_heads * d + 8, head_stride = (rows + 3) * 2 * d;
  Tensor q{act, tokens*q_stride}, kv{act, kv_heads*head_stride};
  float scale = 1 / std::sqrt(static_cast<float>(d));

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
        const auto one =
            reference_attend({query, query + d}, {rows_of_head, rows_of_head + rows * 2 * d}, visible(t), scale);
        const Doubles finished = one.finished();
        want.insert(want.end(), finished.begin(), finished.end());
        tops.push_back(one.m);
      }
  }
  std::int64_t visible(std::int64_t t) const { return std::clamp<std::int64_t>(q_pos + t + 1, 0, rows); }
};

/// A state with everything NaN, and a way to attend tile by tile, the cuts being row numbers.
struct State {
  Tensor o, m, l;
  explicit State(const Case& c)
      : o(DType::f32, c.tokens * c.q_heads * c.d),
        m(DType::f32, c.tokens * c.q_heads),
        l(DType::f32, c.tokens * c.q_heads) {}
  AttnState view() { return {o.floats(), m.floats(), l.floats()}; }
};

State attend_tiles(Case& c, const std::vector<std::int64_t>& cuts) {
  State state(c);
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    KvTile tile{c.kv.at(cuts[i] * 2 * c.d), c.head_stride * size_of(c.act), cuts[i], cuts[i + 1] - cuts[i]};
    cpu::attend({c.q.data(), c.q_stride, tile, state.view(), i == 0, c.act, c.tokens, c.q_heads, c.kv_heads, c.d,
                 c.q_pos, c.scale});
  }
  return state;
}

void check_case(Case& c, const std::vector<std::int64_t>& cuts) {
  INFO(name_of(c.act) << " tokens " << c.tokens << " group " << c.group << " d " << c.d << " rows " << c.rows << " at "
                      << c.q_pos);
  State state = attend_tiles(c, cuts);
  Tensor out(DType::f32, state.o.size);
  cpu::finish({state.view(), out.data(), DType::f32, c.tokens, c.q_heads, c.d});
  for (std::size_t i = 0; i < c.tops.size(); ++i)
    if (std::isinf(c.tops[i])) CHECK(state.m.get(i) == c.tops[i]);
    else CHECK(state.m.get(i) == Approx(c.tops[i]).epsilon(1e-5).margin(1e-5));
  // The matrix path rounds probabilities to bf16, as GPU kernels do.
  const double limit = c.act == DType::bf16 && c.tokens > 16 ? 4e-6 : 1e-12;
  INFO(first_bad(out.values(), c.want, c.d, 100 * std::sqrt(limit)));
  CHECK(nmse(out.values(), c.want) <= limit);
}

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
          check_case(c, {0, rows});
          check_case(c, {0, std::min<std::int64_t>(64, rows), rows});
        });
}

TEST_CASE("attend: many tokens") {
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
            check_case(c, {0, rows});
            check_case(c, {0, std::min<std::int64_t>(192, rows), rows});
            cpu::set_bf16_gemm(true);
          });
      }
}

TEST_CASE("attend: tiles that some or all tokens do not see, and empty tiles") {
  Random random(22);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t tokens : {3, 5, 40, 270})
      for (std::int64_t q_pos : {-2, 0, 62, 63, 64, 100, 511})
        for_each_isa([&] {
          Case c{act, tokens, 2, 1, 64, 576, q_pos};
          c.fill(random);
          check_case(c, {0, 64, 128, 128, 320, 576});
          check_case(c, {0, 0, 576});
        });
}

TEST_CASE("attend: any cut into tiles leaves the same bits (law 1)") {
  Random random(23);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {24, 64, 128})
      for (std::int64_t tokens : {1, 16, 100})
        for_each_isa([&] {
          // The matrix path promises it for tiles that are multiples of its own block of 512 rows.
          const std::int64_t unit = tokens > 16 ? 512 : kAttendBlock, rows = unit * 5 + 17;
          Case c{act, tokens, 3, 2, d, rows, rows - tokens};
          c.fill(random);
          State whole = attend_tiles(c, {0, rows});
          for (auto cuts : {std::vector<std::int64_t>{0, unit, rows},
                            {0, 3 * unit, 4 * unit, rows},
                            {0, unit, 2 * unit, 3 * unit, 4 * unit, 5 * unit, rows},
                            {0, 2 * unit, 2 * unit, rows}}) {
            State parts = attend_tiles(c, cuts);
            CHECK(parts.o.bytes == whole.o.bytes);
            CHECK(parts.m.bytes == whole.m.bytes);
            CHECK(parts.l.bytes == whole.l.bytes);
          }
        });
}
