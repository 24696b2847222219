// Law 8 for attend_step: CPU and CUDA over types of activations and of rows, head sizes, groups, lengths, tiles and the
// ring.
#include "tests/support/batch.h"
#include "tests/support/coded_rows.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_rig.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// Sessions whose first rows are in a prefix, attended as two tiles, and whose last rows may be in a ring.
struct Case {
  DType act;
  std::int64_t kv_heads, group, d;
  std::vector<std::int32_t> lengths;
  std::int64_t prefix, ring = 0;
  RowType type = RowType::act;
  std::int64_t window = 0;  // of the ring, without a prefix
  std::int64_t chunk = 0;
  bool alike = false;  // the forms of a query

  std::int64_t q_heads = kv_heads * group, q_stride = (q_heads + 2 * kv_heads) * d, width = 2 * d;
  std::int64_t cut = prefix / 2 / kAttendBlock * kAttendBlock;
  Batch batch{};
  Tensor q{act, 0}, older{act, 0}, prefix_rows{act, 0}, ring_rows{act, 0};
  std::int64_t form_stride = static_cast<std::int64_t>(lengths.size()) * q_heads * d + 16;

  /// Rows that no token sees are NaN, and so is what is no query.
  void draw(Random& random) {
    batch = Batch(random, static_cast<std::int64_t>(lengths.size()), *std::max_element(lengths.begin(), lengths.end()));
    q = Tensor(act, batch.count * q_stride);
    older = Tensor(act, 2 * form_stride);
    prefix_rows = Tensor(act, batch.slots * kv_heads * (prefix + 3) * width);
    ring_rows = Tensor(act, batch.slots * kv_heads * ring * width);
    for (std::int64_t t = 0; t < batch.count; ++t) {
      StepSpan& span = batch.spans[t];
      span.rows = span.ring_first = lengths[t];
      if (ring > 0 && span.rows > prefix) {
        const auto first = std::max<std::int64_t>(prefix, span.rows - (window > 0 ? window : ring));
        const std::int64_t later = window > 0 ? 0 : random.integer(0, 3);
        span.ring_first = static_cast<std::int32_t>(std::min<std::int64_t>(first + later, span.rows));
      }
      fill(random, q, t * q_stride, q_heads * d, 2);
      for (std::int64_t form = 0; chunk > 0 && form < 2; ++form) {
        const std::int64_t to = form * form_stride + t * q_heads * d;
        if (!alike) fill(random, older, to, q_heads * d, 2);
        for (std::int64_t i = 0; alike && i < q_heads * d; ++i) older.set(to + i, q.get(t * q_stride + i));
      }
      for (std::int64_t h = span.slot * kv_heads; h < (span.slot + 1) * kv_heads; ++h) {
        fill(random, prefix_rows, h * (prefix + 3) * width, std::min<std::int64_t>(span.rows, prefix) * width);
        for (std::int64_t r = span.ring_first; r < span.rows; ++r)
          fill(random, ring_rows, (h * ring + r % ring) * width, width);
      }
    }
  }
  static void fill(Random& random, Tensor& t, std::int64_t first, std::int64_t size, double deviation = 1) {
    const Tensor x = random.normal(t.type, size, deviation);
    std::copy(x.bytes.begin(), x.bytes.end(), t.bytes.begin() + first * size_of(t.type));
  }

  /// o / l before it is rounded, m + log l, and the output.
  std::vector<Tensor> run(Rig& rig) const {
    const std::int64_t states = batch.count * q_heads, bytes = row_bytes(type, d, act);
    auto poisoned = [&](std::int64_t size) { return reinterpret_cast<float*>(rig.put(Tensor(DType::f32, size))); };
    std::byte *prefixes = rig.put(encode_rows(type, prefix_rows, d)), *rings = rig.put(encode_rows(type, ring_rows, d));
    std::byte* out = rig.put(Tensor(act, states * d));
    AttendStepArgs a{.q = rig.put(q),
                     .q_stride = q_stride,
                     .batch = {rig.put(batch.spans), batch.count, batch.capacity},
                     .from = StepRows::tile,
                     .state = {poisoned(states * d), poisoned(states), poisoned(states)},
                     .splits = poisoned(split_floats(batch.count, q_heads, kv_heads, d)),
                     .fresh = true,
                     .act = act,
                     .q_heads = q_heads,
                     .kv_heads = kv_heads,
                     .head_dim = d,
                     .scale = 1 / std::sqrt(static_cast<float>(d)),
                     .forms = {chunk, rig.put(older), form_stride}};
    auto attend = [&](std::byte* data, std::int64_t head_rows, std::int64_t first, std::int64_t rows) {
      a.kv = {data, head_rows * bytes, first, rows, kv_heads * head_rows * bytes, type};
      rig.stream->launch(a);
      a.fresh = false;
    };
    if (window == 0) {
      attend(prefixes, prefix + 3, 0, cut);
      attend(prefixes + cut * bytes, prefix + 3, cut, prefix - cut);
    }
    a.from = StepRows::ring;
    a.window = window;
    if (ring > 0) attend(rings, ring, 0, ring);
    rig.stream->launch(FinishArgs{a.state, out, act, batch.count, q_heads, d});

    Tensor o = rig.get(a.state.o, DType::f32, states * d), mass(DType::f32, states);
    const Tensor m = rig.get(a.state.m, DType::f32, states), l = rig.get(a.state.l, DType::f32, states);
    for (std::int64_t i = 0; i < states; ++i) {
      mass.set(i, l.get(i) == 0 ? 0 : m.get(i) + std::log(l.get(i)));
      for (std::int64_t e = i * d; e < (i + 1) * d && l.get(i) != 0; ++e) o.set(e, o.get(e) / l.get(i));
    }
    return {o, mass, rig.get(out, act, states * d)};
  }
};

void check_case(Rig& cuda, Random& random, Case c) {
  c.draw(random);
  auto body = [&](Rig& rig) { return c.run(rig); };
  const auto [want, got] = on_both(cuda, body);
  CAPTURE(name_of(c.act), int(c.type), c.kv_heads, c.group, c.d, c.lengths, c.prefix, c.ring, c.window, c.chunk);
  // Weights carry 16 bits into bf16 products; what codes stand for is rounded to bf16 there.
  const bool half = c.act == DType::bf16, rounds = half && c.type != RowType::act;
  const double limits[] = {rounds ? 3e-5
                           : half ? 1e-9
                                  : 1e-11,
                           rounds ? 1e-5 : 1e-11,
                           rounds ? 4e-5
                           : half ? 1e-5
                                  : 1e-11};
  for (std::size_t i = 0; i < 3; ++i) {
    INFO("result " << i << " " << first_bad(got[i].values(), want[i].values(), c.d, 100 * std::sqrt(limits[i])));
    CHECK(nmse(got[i].values(), want[i].values()) <= limits[i]);
  }
  const auto again = body(cuda);
  cuda.clear();
  for (std::size_t i = 0; i < 3; ++i) CHECK(again[i].bytes == got[i].bytes);
}

}  // namespace

TEST_CASE("cuda: attend_step, over head sizes and groups", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(30);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64, 80, 128, 256})
      for (std::int64_t group : {1, 2, 3, 4, 8, 12}) {
        check_case(*cuda, random, {act, 2, group, d, {200, 1, 77}, 200});
        check_case(*cuda, random, {act, 1, group, d, {150, 65}, 64, 90});
      }
}

TEST_CASE("cuda: attend_step, a window of a ring", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(35);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {64, 128, 256})
      for (std::int64_t group : {1, 4})
        for (std::int64_t window : {1, 48, 64, 100}) {
          Case c{act, 2, group, d, {300, 1, 77, 64}, 0, 128};
          c.window = window;
          check_case(*cuda, random, c);
        }
}

TEST_CASE("cuda: attend_step, a window of rows of every type, of many heads, and of as many rows as the ring has",
          "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(36);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {64, 96, 128})
      for (RowType type : kRowTypes)
        for (std::int64_t window : {48, 128}) {
          Case c{act, 1, window == 48 ? 12 : 2, d, {300, 77}, 0, 128, type};
          c.window = window;
          check_case(*cuda, random, c);
        }
}

TEST_CASE("cuda: attend_step, a window of thousands of rows", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(37);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {24, 80, 128}) {
      Case c{act, 2, 4, d, {9000, 4100, 10}, 0, 4160};
      c.window = 4096;
      check_case(*cuda, random, c);
    }
}

TEST_CASE("cuda: attend_step, rows of every type", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(34);
  for (RowType type : kCodedTypes)
    for (DType act : {DType::bf16, DType::f32})
      for (std::int64_t d : {32, 64, 96, 128, 192, 256})
        for (std::int64_t group : {1, 3, 8, 12}) {
          check_case(*cuda, random, {act, 2, group, d, {200, 1, 77}, 200, 0, type});
          check_case(*cuda, random, {act, 1, group, d, {150, 65, 3000}, 64, 90, type});
        }
}

TEST_CASE("cuda: attend_step, queries in three forms, sessions in different chunks", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(38);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {24, 64, 128, 256})
      for (std::int64_t group : {1, 4, 12}) {
        const std::int64_t chunk = group == 1 ? 1024 : group == 4 ? 512 : 256;
        const auto at = [&](std::int64_t rows) { return static_cast<std::int32_t>(rows); };
        Case tiles{act,           2, group, d, {at(3 * chunk + 77), 1, at(chunk), at(chunk + 1), at(2 * chunk + 130)},
                   3 * chunk + 80};
        Case ring{act, 1, group, d, {at(3 * chunk + 200), 150, at(2 * chunk - 1)}, 64, 2 * chunk + 90};
        Case window{act, 2, group, d, {at(3 * chunk + 100), 60, at(2 * chunk + 1)}, 0, chunk + 110};
        window.window = chunk + 90;
        for (Case* c : {&tiles, &ring, &window}) {
          c->chunk = chunk;
          check_case(*cuda, random, *c);
        }
      }
}

TEST_CASE("cuda: attend_step, three forms, rows of every type", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(39);
  for (RowType type : kRowTypes)
    for (DType act : {DType::bf16, DType::f32})
      for (std::int64_t d : {32, 64, 96, 128, 192, 256}) {
        Case c{act, 1, 3, d, {900, 65, 513}, 320, 700, type};
        c.chunk = 256;
        check_case(*cuda, random, c);
      }
}

TEST_CASE("cuda: attend_step, three forms that are alike leave the bits of one", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(29);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {80, 128, 256})  // a block takes 64 rows at once: no border cuts them
      for (std::int64_t group : {1, 4}) {
        Case c{act, 2, group, d, {3000, 1, 256, 257, 1300}, 3000};
        c.chunk = 256, c.alike = true;
        c.draw(random);
        Case plain = c;
        plain.chunk = 0;
        const auto want = plain.run(*cuda), got = c.run(*cuda);
        cuda->clear();
        CAPTURE(name_of(act), d, group);
        for (std::size_t i = 0; i < 3; ++i) CHECK(got[i].bytes == want[i].bytes);
      }
}

TEST_CASE("cuda: attend_step, each kernel, small enough for a race checker", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(31);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {64, 128, 256})
      for (std::int64_t group : {1, 8})
        for (RowType type : kRowTypes) check_case(*cuda, random, {act, 2, group, d, {100, 131}, 64, 80, type});
}

TEST_CASE("cuda: attend_step, empty tiles, short ones, a ring that has gone round", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(32);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {64, 128}) {
      check_case(*cuda, random, {act, 2, 4, d, {0, 0}, 64});  // nothing at all: zeros
      check_case(*cuda, random, {act, 3, 4, d, {1}, 192});
      check_case(*cuda, random, {act, 1, 2, d, {5000, 63, 64}, 0, 33});
      check_case(*cuda, random, {act, 2, 1, d, {1000, 129, 128, 127, 1}, 128, 64});
      check_case(*cuda, random, {act, 1, 4, d, {9000}, 9000});
    }
}

TEST_CASE("cuda: attend_step, 64 sessions of any lengths", "[cuda][large]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(33);
  for (std::int64_t d : {64, 128})
    for (std::int64_t kv_heads : {1, 3}) {
      std::vector<std::int32_t> lengths;
      for (int t = 0; t < 64; ++t)
        lengths.push_back(static_cast<std::int32_t>(random.integer(0, t % 9 == 0 ? 4000 : 100)));
      check_case(*cuda, random, {DType::bf16, kv_heads, 4, d, lengths, 320, 4000});
    }
}
