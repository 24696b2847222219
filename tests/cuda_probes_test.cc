// What accuracy is measured with, on the CUDA device against the CPU's: mass, judge, moments, fill.
#include <algorithm>
#include <cmath>

#include "tests/support/batch.h"
#include "tests/support/coded_rows.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_rig.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

const DType kTypes[] = {DType::bf16, DType::f32};

/// Lists of a batch: each row of a span with a chance of `share`, ascending.
struct Lists {
  std::int64_t heads, stride;
  std::vector<std::int32_t> rows = std::vector<std::int32_t>(static_cast<std::size_t>(heads * stride), -1);
  std::vector<std::int32_t> count = std::vector<std::int32_t>(static_cast<std::size_t>(heads));

  void fill(Random& random, const Batch& batch, std::int64_t percent) {
    const std::int64_t kv_heads = heads / batch.count;
    for (std::int64_t n = 0; n < heads; ++n)
      for (std::int32_t r = 0; r < batch.spans[static_cast<std::size_t>(n / kv_heads)].rows; ++r)
        if (random.integer(0, 99) < percent)
          rows[static_cast<std::size_t>(n * stride + count[static_cast<std::size_t>(n)]++)] = r;
  }
  RowList put(Rig& rig) const { return {rig.put(rows), rig.put(count), stride}; }
};

struct Judgement {
  Batch batch;
  Lists lists;
  DType act;
  std::int64_t kv_heads, group, d, rows;
  Tensor q, kv;
  RowType type = RowType::act;
  std::int64_t chunk = 0;
  Tensor older{act, 0};  // where there is a chunk: [2, count, q_heads * d]
};

/// [count, kv_heads] of mass, best, recall.
std::vector<double> judged(Rig& rig, const Judgement& j) {
  const std::int64_t q_heads = j.kv_heads * j.group, q_stride = q_heads * j.d + 8, out_stride = j.kv_heads + 1;
  const std::int64_t head = j.rows * row_bytes(j.type, j.d, j.act);
  std::byte* out = rig.put(Tensor(DType::f32, j.batch.count * out_stride * 3));
  rig.stream->launch(JudgeArgs{rig.put(j.q),
                               q_stride,
                               {rig.put(j.batch.spans), j.batch.count, j.batch.capacity},
                               {rig.put(encode_rows(j.type, j.kv, j.d)), head, 0, j.rows, j.kv_heads * head, j.type},
                               j.lists.put(rig),
                               reinterpret_cast<SelectionQuality*>(out),
                               out_stride,
                               j.act,
                               q_heads,
                               j.kv_heads,
                               j.d,
                               1 / std::sqrt(static_cast<float>(j.d)),
                               {j.chunk, rig.put(j.older), j.batch.count * q_heads * j.d}});
  const Tensor all = rig.get(out, DType::f32, j.batch.count * out_stride * 3);
  std::vector<double> some;
  for (std::int64_t t = 0; t < j.batch.count; ++t)
    for (std::int64_t i = 0; i < j.kv_heads * 3; ++i) some.push_back(all.get(t * out_stride * 3 + i));
  return some;
}

void check_judged(Rig& cuda, const Judgement& j) {
  const auto [want, got] = on_both(cuda, [&](Rig& rig) { return judged(rig, j); });
  for (std::size_t i = 0; i < want.size(); i += 3) {
    const double listed = j.lists.count[i / 3];
    INFO("listed " << listed << " of " << j.rows);
    CHECK(got[i] == Approx(want[i]).margin(1e-5));
    CHECK(got[i + 1] == Approx(want[i + 1]).margin(1e-5));
    // Two rows of nearly one score may change places.
    CHECK(std::abs(got[i + 2] - want[i + 2]) <= (listed > 1000 ? 2 : 1) / std::max(listed, 1.0) + 1e-6);
  }
}

}  // namespace

TEST_CASE("cuda: fill", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  for (std::int64_t count : {0, 1, 1000, 3000001})
    for (std::int32_t value : {0, -1, 123456}) {
      auto [want, got] = on_both(*cuda, [&](Rig& rig) {
        auto* out = rig.put(std::vector<std::int32_t>(static_cast<std::size_t>(count + 2), 7));
        rig.stream->launch(FillArgs{out + 1, value, count});
        return rig.ints(out, count + 2);
      });
      CHECK(got == want);
      CHECK(got.back() == 7);
    }
}

TEST_CASE("cuda: add_list_mass", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(50);
  for (std::int64_t group : {1, 2, 5})
    for (std::int64_t percent : {0, 10, 70, 100}) {
      const std::int64_t kv_heads = 2, q_heads = kv_heads * group, rows = random.integer(1, 3000);
      Batch batch(random, 3, rows + 5);
      for (StepSpan& span : batch.spans) span.rows = static_cast<std::int32_t>(random.integer(1, rows));
      Lists lists{batch.count * kv_heads, rows + 3};
      lists.fill(random, batch, percent);
      const Tensor scores = random.normal(DType::f32, batch.count * q_heads * lists.stride, 3);
      Tensor m(DType::f32, batch.count * q_heads), l = m;
      for (std::int64_t i = 0; i < m.size; ++i) {
        double top = -INFINITY, sum = 0;
        const std::int32_t count = lists.count[static_cast<std::size_t>(i / group)];
        for (std::int64_t k = 0; k < count; ++k) top = std::max(top, scores.get(i * lists.stride + k));
        for (std::int64_t k = 0; k < count; ++k) sum += std::exp(scores.get(i * lists.stride + k) - top);
        m.set(i, top), l.set(i, sum);
      }
      const std::int64_t stride = rows + 9, all = batch.slots * kv_heads * stride;
      const Tensor before = random.normal(DType::f32, all);
      auto [want, got] = on_both(*cuda, [&](Rig& rig) {
        std::byte* mass = rig.put(before);
        auto floats = [&](const Tensor& t) { return reinterpret_cast<float*>(rig.put(t)); };
        rig.stream->launch(AddListMassArgs{{rig.put(batch.spans), batch.count, batch.capacity},
                                           lists.put(rig),
                                           floats(scores),
                                           {nullptr, floats(m), floats(l)},
                                           reinterpret_cast<float*>(mass),
                                           stride,
                                           kv_heads * stride,
                                           q_heads,
                                           kv_heads,
                                           64});
        return rig.get(mass, DType::f32, all);
      });
      CAPTURE(group, percent, rows);
      for (std::int64_t i = 0; i < all; ++i) {
        if (std::isinf(want.get(i))) REQUIRE(got.get(i) == want.get(i));
        else REQUIRE(got.get(i) == Approx(want.get(i)).margin(1e-5));
      }
    }
}

namespace {

using Sizes = std::initializer_list<std::int64_t>;

void add_masses(DType act, Sizes head_dims, Sizes groups, Sizes tokens_of_each) {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(51);
  for (std::int64_t d : head_dims)
    for (std::int64_t group : groups)
      for (std::int64_t tokens : tokens_of_each)
        for (std::int64_t chunk : {0, 256, 512}) {
          const std::int64_t before = random.integer(0, chunk > 0 ? 4 * chunk : 500), rows = before + tokens,
                             kv_heads = 2;
          const std::int64_t q_heads = group * kv_heads, q_stride = q_heads * d + 8, stride = rows + 3;
          const Tensor q = random.normal(act, tokens * q_stride), kv = random.normal(act, kv_heads * rows * 2 * d);
          const Tensor older = random.normal(act, 2 * tokens * q_heads * d);
          const float scale = 1 / std::sqrt(static_cast<float>(d));
          auto result = on_both(*cuda, [&](Rig& rig) {
            auto floats = [&](std::int64_t n) { return reinterpret_cast<float*>(rig.put(Tensor(DType::f32, n))); };
            const AttnState state{floats(tokens * q_heads * d), floats(tokens * q_heads), floats(tokens * q_heads)};
            const void* query = rig.put(q);
            const QueryForms forms{chunk, rig.put(older), tokens * q_heads * d};
            const KvTile tile{rig.put(kv), rows * 2 * d * size_of(act), 0, rows};
            std::byte* mass = rig.put(Tensor(DType::f32, kv_heads * stride, 0.5));
            rig.stream->launch(AttendArgs{.q = query,
                                          .q_stride = q_stride,
                                          .kv = tile,
                                          .state = state,
                                          .out = rig.put(Tensor(act, tokens * q_heads * d)),
                                          .act = act,
                                          .tokens = tokens,
                                          .q_heads = q_heads,
                                          .kv_heads = kv_heads,
                                          .head_dim = d,
                                          .q_pos = before,
                                          .scale = scale,
                                          .forms = forms});
            rig.stream->launch(AddMassArgs{query, q_stride, tile, state, reinterpret_cast<float*>(mass), stride, act,
                                           tokens, q_heads, kv_heads, d, before, scale, forms});
            return rig.get(mass, DType::f32, kv_heads * stride);
          });
          CAPTURE(name_of(act), d, group, tokens, before, chunk);
          CHECK(nmse(result.second.values(), result.first.values()) < 1e-9);
          for (std::int64_t h = 0; h < kv_heads; ++h) CHECK(result.second.get(h * stride + rows) == 0.5);
        }
}

}  // namespace

// In a case for each, so that sanitizers end.
TEST_CASE("cuda: add_mass, f32", "[cuda][shared][long]") {
  add_masses(DType::f32, {8, 80, 128, 256}, {1, 3}, {1, 20, 270});
}
TEST_CASE("cuda: add_mass, bf16", "[cuda][shared][long]") {
  add_masses(DType::bf16, {8, 80, 128, 256}, {1, 3}, {1, 20, 270});
}
TEST_CASE("cuda: add_mass, small enough for a race checker", "[cuda][shared]") {
  for (DType act : kTypes) add_masses(act, {8, 128}, {3}, {20});
}

namespace {

void judge_all(Sizes head_dims, Sizes groups, std::int64_t most_rows) {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(53);
  for (DType act : kTypes)
    for (std::int64_t d : head_dims)
      for (std::int64_t group : groups)
        for (std::int64_t percent : {0, 1, 25, 100}) {
          const std::int64_t rows = random.integer(1, most_rows), kv_heads = 2, count = random.integer(1, 3);
          Judgement j{Batch(random, count, rows + 5),
                      {count * kv_heads, rows + 1},
                      act,
                      kv_heads,
                      group,
                      d,
                      rows,
                      random.normal(act, count * (kv_heads * group * d + 8), 2),
                      random.normal(act, 0)};
          j.kv = random.normal(act, j.batch.slots * kv_heads * rows * 2 * d);
          if (d % kRowGroup == 0) j.type = kRowTypes[random.integer(0, 3)];
          for (StepSpan& span : j.batch.spans) span.rows = static_cast<std::int32_t>(random.integer(1, rows));
          j.lists.fill(random, j.batch, percent);
          CAPTURE(name_of(act), int(j.type), d, group, percent);
          check_judged(*cuda, j);
        }
}

void judge_forms(DType act, Sizes head_dims, Sizes groups, Sizes chunks) {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(57);
  for (std::int64_t d : head_dims)
    for (std::int64_t group : groups)
      for (std::int64_t chunk : chunks) {
        const std::int64_t rows = 3 * chunk + random.integer(1, chunk), kv_heads = 2, count = 4;
        Judgement j{Batch(random, count, rows + 5),
                    {count * kv_heads, rows + 1},
                    act,
                    kv_heads,
                    group,
                    d,
                    rows,
                    random.normal(act, count * (kv_heads * group * d + 8), 2),
                    random.normal(act, 0)};
        j.kv = random.normal(act, j.batch.slots * kv_heads * rows * 2 * d);
        if (d % kRowGroup == 0) j.type = kRowTypes[random.integer(0, 3)];
        for (std::int64_t t = 0; t < count; ++t)
          j.batch.spans[t].rows = static_cast<std::int32_t>(t == 3 ? rows : t * chunk + random.integer(1, chunk));
        j.lists.fill(random, j.batch, 25);
        j.chunk = chunk;
        j.older = random.normal(act, 2 * count * kv_heads * group * d, 2);
        CAPTURE(name_of(act), int(j.type), d, group, chunk);
        check_judged(*cuda, j);
      }
}

}  // namespace

TEST_CASE("cuda: judge", "[cuda][shared][long]") { judge_all({8, 24, 64, 80, 128, 256}, {1, 3, 5, 8}, 3000); }
TEST_CASE("cuda: judge, small enough for a race checker", "[cuda][shared]") { judge_all({64, 80}, {1, 5}, 400); }

TEST_CASE("cuda: judge of queries in three forms, sessions in different chunks, f32", "[cuda][shared][long]") {
  judge_forms(DType::f32, {24, 64, 128, 256}, {1, 5, 8}, {256, 512, 1024});
}
TEST_CASE("cuda: judge of queries in three forms, sessions in different chunks, bf16", "[cuda][shared][long]") {
  judge_forms(DType::bf16, {24, 64, 128, 256}, {1, 5, 8}, {256, 512, 1024});
}
TEST_CASE("cuda: judge of queries in three forms, small enough for a race checker", "[cuda][shared]") {
  for (DType act : kTypes) judge_forms(act, {64}, {5}, {256});
}

TEST_CASE("cuda: judge where all scores are equal: the lower rows are the top", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(54);
  for (std::int64_t rows : {1, 40, 1000, 5000}) {
    Judgement j{Batch(random, 1, rows),
                {2, rows},
                DType::bf16,
                2,
                3,
                64,
                rows,
                random.normal(DType::bf16, 2 * 3 * 64 + 8),
                Tensor(DType::bf16, 3 * 2 * rows * 128, 0)};
    j.batch.spans[0].rows = static_cast<std::int32_t>(rows);
    for (std::int64_t h = 0; h < 2; ++h)  // half the rows, all others
      for (std::int64_t r = h; r < rows; r += 2)
        j.lists.rows[static_cast<std::size_t>(h * rows + j.lists.count[static_cast<std::size_t>(h)]++)] =
            static_cast<std::int32_t>(r);
    // Some rows stand out, so that the threshold lies among equals below them.
    for (std::int64_t r = 0; r < rows; r += 17)
      for (std::int64_t s = 0; s < 6; ++s)
        for (std::int64_t i = 0; i < 64; ++i) j.kv.set((s * rows + r) * 128 + i, j.q.get(i));
    check_judged(*cuda, j);
  }
}

TEST_CASE("cuda: moments", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(55);
  for (DType act : kTypes)
    for (std::int64_t d : {8, 24, 64, 80, 128, 256})
      for (std::int64_t group : {1, 3}) {
        const std::int64_t kv_heads = 2, q_heads = group * kv_heads, width = (q_heads + 2 * kv_heads) * d;
        const std::int64_t tokens = random.integer(2, 1300), first = tokens / 3, size = kv_heads * moment_doubles(d);
        const Tensor qkv = random.normal(act, tokens * width);
        auto result = on_both(*cuda, [&](Rig& rig) {
          const std::byte* data = rig.put(qkv);
          auto* sums = rig.put(std::vector<double>(static_cast<std::size_t>(size), 0.25));
          rig.stream->launch(MomentsArgs{data, sums, act, first, q_heads, kv_heads, d});
          rig.stream->launch(
              MomentsArgs{data + first * width * size_of(act), sums, act, tokens - first, q_heads, kv_heads, d});
          std::vector<double> got(static_cast<std::size_t>(size));
          rig.stream->copy({.dst = got.data(), .src = sums, .width = size * 8, .kind = CopyKind::device_to_host});
          rig.wait();
          return got;
        });
        CAPTURE(name_of(act), d, group, tokens);
        CHECK(nmse(result.second, result.first) < 1e-12);
      }
}
