// Law 8 for score_list and finish_list: CPU and CUDA over types of activations and of rows, head sizes, groups and
// lists, with rows in every region and some of them late.
#include <numeric>

#include "tests/support/batch.h"
#include "tests/support/coded_rows.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_rig.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

using Ints = std::vector<std::int32_t>;

/// What is in staging of a list, in percent, and of that what has landed.
struct Staged {
  std::int64_t share, landed;
};

struct Case {
  DType act;
  std::int64_t kv_heads, group, d, tokens;
  Ints counts;  // of the lists, in turn
  Staged staged;
  RowType type = RowType::act;
  std::int64_t chunk = 0;  // not 0: sessions of different lengths, whose queries have three forms

  std::int64_t q_heads = kv_heads * group, q_stride = q_heads * d + 8, width = 2 * d, lists = tokens * kv_heads;
  std::int64_t most = *std::max_element(counts.begin(), counts.end()), stride = most + 5, rows = most + 20;
  Batch batch{};
  std::int64_t form_stride = tokens * q_heads * d + 24;
  Tensor q{act, 0}, older{act, 0}, early{act, 0};
  std::vector<Tensor> regions{};  // each [slots, kv_heads, rows] rows, NaN where none is listed; places in disorder
  Ints list = Ints(lists * stride, -1), places = list, count = Ints(lists), landed = count, missed = count;

  void draw(Random& random) {
    batch = Batch(random, tokens, rows);
    for (std::int64_t t = 0; t < tokens; ++t) {
      StepSpan& span = batch.spans[t];
      span.rows = span.ring_first =
          static_cast<std::int32_t>(chunk > 0 ? std::max(rows - t * (chunk - 9), chunk / 2) : rows);
    }
    q = random.normal(act, tokens * q_stride, 2);
    older = chunk > 0 ? random.normal(act, 2 * form_stride, 2) : Tensor(act, 2 * form_stride);
    regions.assign(4, Tensor(act, batch.slots * kv_heads * rows * width));
    for (std::int64_t n = 0; n < lists; ++n) draw_list(random, n);
    early = regions[3];
    for (std::int64_t n = 0; n < lists; ++n)  // late rows are not there at first
      for (std::int64_t e = (n * rows + landed[n]) * width; e < (n + 1) * rows * width; ++e)
        early.set(e, std::numeric_limits<double>::quiet_NaN());
  }

  /// `size` of [0, all) in disorder.
  static Ints shuffled(Random& random, std::int64_t size, std::int64_t all) {
    Ints x(all);
    std::iota(x.begin(), x.end(), 0);
    for (std::int64_t i = 0; i < size; ++i) std::swap(x[i], x[random.integer(i, all - 1)]);
    x.resize(size);
    return x;
  }

  void draw_list(Random& random, std::int64_t n) {
    const std::int32_t length = batch.spans[n / kv_heads].rows;
    const std::int64_t size = count[n] = std::min(counts[n % counts.size()], length), head = n % kv_heads;
    Ints chosen = shuffled(random, size, length), late;
    std::sort(chosen.begin(), chosen.end());
    const Ints places_of[] = {shuffled(random, size, rows), shuffled(random, size, rows), shuffled(random, size, rows)};
    std::vector<std::int64_t> in_staging;
    for (std::int64_t i = 0; i < size; ++i) {
      list[n * stride + i] = chosen[i];
      if (random.integer(0, 99) < staged.share) in_staging.push_back(i);
      else {
        const std::int64_t region = random.integer(0, 2);
        put(random, n, i, static_cast<Region>(region), places_of[region][i], batch.spans[n / kv_heads].slot, head);
      }
    }
    // Staging: places that have landed, not all of them listed, then the late rows one after another.
    std::vector<std::int64_t> on_time, behind;
    for (std::int64_t i : in_staging) (random.integer(0, 99) < staged.landed ? on_time : behind).push_back(i);
    landed[n] = static_cast<std::int32_t>(on_time.size()) + static_cast<std::int32_t>(random.integer(0, 9));
    missed[n] = static_cast<std::int32_t>(behind.size());
    Ints landed_places(landed[n]);
    std::iota(landed_places.begin(), landed_places.end(), 0);
    for (std::int64_t i = 0; i < landed[n]; ++i)
      std::swap(landed_places[i], landed_places[random.integer(i, landed[n] - 1)]);
    for (std::size_t i = 0; i < on_time.size(); ++i)
      put(random, n, on_time[i], Region::staging, landed_places[i], n / kv_heads, head);
    for (std::size_t i = 0; i < behind.size(); ++i)
      put(random, n, behind[i], Region::staging, landed[n] + static_cast<std::int64_t>(i), n / kv_heads, head);
  }
  void put(Random& random, std::int64_t n, std::int64_t i, Region region, std::int64_t place, std::int64_t session,
           std::int64_t head) {
    places[n * stride + i] = row_place(region, place);
    const Tensor row = random.normal(act, width);
    std::copy(row.bytes.begin(), row.bytes.end(),
              regions[static_cast<int>(region)].at(((session * kv_heads + head) * rows + place) * width));
  }

  /// m + log l, the output, and the scores of what is listed.
  std::vector<Tensor> run(Rig& rig, bool in_halves, bool keep_scores) const {
    const std::int64_t states = tokens * q_heads, head_bytes = rows * row_bytes(type, d, act);
    auto poisoned = [&](std::int64_t size) { return reinterpret_cast<float*>(rig.put(Tensor(DType::f32, size))); };
    auto tile = [&](const Tensor& t) {
      return KvTile{rig.put(encode_rows(type, t, d)), head_bytes, 0, rows, kv_heads * head_bytes, type};
    };
    const KvTile staging = tile(in_halves ? early : regions[3]);
    const std::vector<std::byte> all_staged = encode_rows(type, regions[3], d);
    std::byte* out = rig.put(Tensor(act, states * d));
    const AttendListArgs a{.q = rig.put(q),
                           .q_stride = q_stride,
                           .batch = {rig.put(batch.spans), tokens, rows},
                           .rows = {rig.put(list), rig.put(count), stride},
                           .places = rig.put(places),
                           .regions = {tile(regions[0]), tile(regions[1]), tile(regions[2]), staging},
                           .landed = rig.put(landed),
                           .missed = rig.put(missed),
                           .scores = poisoned(states * stride),
                           .keep_scores = keep_scores,
                           .state = {poisoned(states * d), poisoned(states), poisoned(states)},
                           .splits = poisoned(split_floats(tokens, q_heads, kv_heads, d)),
                           .act = act,
                           .q_heads = q_heads,
                           .kv_heads = kv_heads,
                           .head_dim = d,
                           .scale = 1 / std::sqrt(static_cast<float>(d)),
                           .forms = {chunk, rig.put(older), form_stride}};
    if (in_halves) {
      rig.stream->launch(ScoreListArgs{a});
      rig.stream->copy({.dst = staging.data,
                        .src = all_staged.data(),
                        .width = static_cast<std::int64_t>(all_staged.size()),
                        .kind = CopyKind::host_to_device});
    }
    rig.stream->launch(FinishListArgs{a, in_halves, out});

    Tensor mass(DType::f32, states), scores(DType::f32, 0);
    const Tensor m = rig.get(a.state.m, DType::f32, states), l = rig.get(a.state.l, DType::f32, states);
    for (std::int64_t i = 0; i < states; ++i) mass.set(i, l.get(i) == 0 ? 0 : m.get(i) + std::log(l.get(i)));
    if (keep_scores) {
      scores = rig.get(a.scores, DType::f32, states * stride);
      for (std::int64_t i = 0; i < scores.size; ++i)
        if (i % stride >= count[i / stride / group]) scores.set(i, 0);
    }
    return {mass, rig.get(out, act, states * d), scores};
  }
};

void check_case(Rig& cuda, Random& random, Case c) {
  c.draw(random);
  for (bool in_halves : {false, true})
    for (bool keep_scores : {false, true}) {
      auto body = [&](Rig& rig) { return c.run(rig, in_halves, keep_scores); };
      const auto [want, got] = on_both(cuda, body);
      CAPTURE(name_of(c.act), int(c.type), c.kv_heads, c.group, c.d, c.tokens, c.counts, c.staged.share,
              c.staged.landed, c.chunk, in_halves, keep_scores);
      // A bf16 output is rounded twice, and what codes stand for is rounded to bf16 for its products.
      const bool half = c.act == DType::bf16, rounds = half && c.type != RowType::act;
      const double limits[] = {rounds ? 1e-5 : 1e-11, rounds ? 1e-4 : half ? 1e-5 : 1e-11, rounds ? 1e-5 : 1e-11};
      for (std::size_t i = 0; i < 3; ++i) {
        INFO("result " << i << " " << first_bad(got[i].values(), want[i].values(), c.d, 100 * std::sqrt(limits[i])));
        CHECK(nmse(got[i].values(), want[i].values()) <= limits[i]);
      }
      const auto again = body(cuda);
      cuda.clear();
      for (std::size_t i = 0; i < 3; ++i) CHECK(again[i].bytes == got[i].bytes);
    }
}

}  // namespace

TEST_CASE("cuda: attention over lists, over head sizes and groups", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(40);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64, 80, 128, 256})
      for (std::int64_t group : {1, 2, 3, 4, 8, 12})
        check_case(*cuda, random, {act, 2, group, d, 2, {130, 0, 1, 77}, {40, 50}});
}

namespace {

void attend_rows(RowType type) {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(45);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {32, 64, 96, 128, 256})
      for (std::int64_t group : {1, 4, 12}) {
        check_case(*cuda, random, {act, 2, group, d, 2, {130, 0, 1, 77}, {40, 50}, type});
        check_case(*cuda, random, {act, 1, group, d, 1, {1500}, {30, 60}, type});
      }
}

}  // namespace

// In a case for each, so that sanitizers end.
TEST_CASE("cuda: attention over lists, rows of every type, int8", "[cuda]") { attend_rows(RowType::int8); }
TEST_CASE("cuda: attention over lists, rows of every type, fp8", "[cuda]") { attend_rows(RowType::fp8); }
TEST_CASE("cuda: attention over lists, rows of every type, int4", "[cuda]") { attend_rows(RowType::int4); }

TEST_CASE("cuda: attention over lists, each kernel, small enough for a race checker", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(41);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {64, 128, 256})
      for (RowType type : kRowTypes) check_case(*cuda, random, {act, 1, 4, d, 2, {90, 150}, {40, 50}, type});
}

TEST_CASE("cuda: attention over lists that are empty, all late, all there, or all in one place", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(42);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {64, 128}) {
      check_case(*cuda, random, {act, 2, 4, d, 3, {0}, {40, 50}});
      check_case(*cuda, random, {act, 2, 4, d, 3, {200, 3, 0}, {100, 0}});
      check_case(*cuda, random, {act, 2, 4, d, 3, {200, 3, 0}, {100, 100}});
      check_case(*cuda, random, {act, 2, 4, d, 3, {200, 3, 0}, {0, 0}});
      check_case(*cuda, random, {act, 8, 4, d, 1, {2048}, {15, 40}});
      check_case(*cuda, random, {act, 1, 1, d, 1, {6000}, {30, 60}});
    }
}

TEST_CASE("cuda: attention over lists, queries in three forms, sessions in different chunks", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(46);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {24, 64, 128, 256})
      for (std::int64_t group : {1, 4, 12}) {
        const std::int64_t chunk = group == 4 ? 512 : 256;
        const auto most = static_cast<std::int32_t>(3 * chunk + 100);
        Case c{act, 1, group, d, 4, {most, 300, 0, 77, 1}, {40, 50}};
        c.chunk = chunk;
        check_case(*cuda, random, c);
      }
  for (Staged staged : {Staged{100, 0}, {100, 100}, {60, 30}}) {
    Case c{DType::bf16, 2, 4, 128, 4, {3200, 300, 2000}, staged};
    c.chunk = 1024;
    check_case(*cuda, random, c);
  }
}

TEST_CASE("cuda: attention over lists, three forms, rows of every type", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(47);
  for (RowType type : kRowTypes)
    for (DType act : {DType::bf16, DType::f32})
      for (std::int64_t d : {32, 64, 96, 128, 256}) {
        Case c{act, 1, 3, d, 3, {800, 40, 333}, {40, 50}, type};
        c.chunk = 256;
        check_case(*cuda, random, c);
      }
}

TEST_CASE("cuda: attention over a list of all rows, three forms that are alike: the bits of one", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(48);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {80, 128, 256}) {  // a block takes 64 rows at once: no border cuts them
      Case c{act, 1, 4, d, 2, {1200}, {0, 0}};
      c.draw(random);
      for (std::int64_t t = 0; t < 2; ++t) {
        std::iota(c.list.begin() + t * c.stride, c.list.begin() + t * c.stride + 1200, 0);
        c.batch.spans[t].rows = 1200 - static_cast<std::int32_t>(t) * 300;
        c.count[t] = c.batch.spans[t].rows;
        for (std::int64_t form = 0; form < 2; ++form)
          for (std::int64_t i = 0; i < c.q_heads * d; ++i)
            c.older.set(form * c.form_stride + t * c.q_heads * d + i, c.q.get(t * c.q_stride + i));
      }
      Case formed = c;
      formed.chunk = 256;
      const auto want = c.run(*cuda, false, true), got = formed.run(*cuda, false, true);
      cuda->clear();
      CAPTURE(name_of(act), d);
      for (std::size_t i = 0; i < 3; ++i) CHECK(got[i].bytes == want[i].bytes);
    }
}

TEST_CASE("cuda: attention over lists of row numbers alone", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(43);
  for (DType act : {DType::bf16, DType::f32}) {
    Case c{act, 2, 4, 64, 3, {300, 20, 64}, {0, 0}};
    c.draw(random);
    // Without places and the rest a row is in the prefix, at its own number.
    const std::int64_t states = c.tokens * c.q_heads, head_bytes = c.rows * c.width * size_of(act);
    const Tensor kv = random.normal(act, c.batch.slots * c.kv_heads * c.rows * c.width);
    const auto [want, got] = on_both(*cuda, [&](Rig& rig) {
      auto floats = [&](std::int64_t size) { return reinterpret_cast<float*>(rig.put(Tensor(DType::f32, size))); };
      std::byte* out = rig.put(Tensor(act, states * c.d));
      AttendListArgs a{.q = rig.put(c.q),
                       .q_stride = c.q_stride,
                       .batch = {rig.put(c.batch.spans), c.tokens, c.rows},
                       .rows = {rig.put(c.list), rig.put(c.count), c.stride},
                       .scores = floats(states * c.stride),
                       .state = {floats(states * c.d), floats(states), floats(states)},
                       .splits = floats(split_floats(c.tokens, c.q_heads, c.kv_heads, c.d)),
                       .act = act,
                       .q_heads = c.q_heads,
                       .kv_heads = c.kv_heads,
                       .head_dim = c.d,
                       .scale = 0.125f};
      a.regions.prefix = {rig.put(kv), head_bytes, 0, c.rows, c.kv_heads * head_bytes};
      rig.stream->launch(FinishListArgs{a, false, out});
      return rig.get(out, act, states * c.d).values();
    });
    CHECK(nmse(got, want) <= (act == DType::bf16 ? 1e-5 : 1e-11));
  }
}

TEST_CASE("cuda: attention over 64 lists of any lengths", "[cuda][large]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(44);
  Ints counts;
  for (int n = 0; n < 64; ++n) counts.push_back(static_cast<std::int32_t>(random.integer(0, n % 9 == 0 ? 1500 : 90)));
  for (std::int64_t d : {64, 128}) check_case(*cuda, random, {DType::bf16, 3, 4, d, 64, counts, {25, 60}});
}
