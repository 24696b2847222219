// select: CPU and CUDA give the same lists. Scores differ by rounding, so rows at the threshold may change places:
// lists agree by Jaccard, and to the last row where scores are whole numbers or rows are of a few kinds.
#include "tests/support/select_case.h"

using namespace longhaul;
using namespace longhaul::test;
using namespace longhaul::test::selecting;

TEST_CASE("cuda: select by labels agrees with the CPU", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(170);
  Agreement agreement;
  for (std::int64_t d : {8, 64, 80, 128})
    for (std::int64_t group : {1, 2, 4, 7, 8, 16})
      for (std::int64_t bits : {4, 8, 16})
        for (std::int64_t dims : {random.integer(1, d), std::min<std::int64_t>(d, 32), std::min<std::int64_t>(d, 64)}) {
          Case c{3, random.integer(1, 3), group, d, random.integer(300, 3000), dims, bits};
          c.act = random.integer(0, 1) ? DType::f32 : DType::bf16;
          c.combine = random.integer(0, 1) ? Combine::mean : Combine::max;
          const float shares[] = {1, 1, 1, 0.99f, 0.9f, 0.5f};
          c.top_p = shares[random.integer(0, 5)];
          for (std::int64_t slot : {2, 0, 1}) add_any(c, random, slot);
          c.fill(random);
          CAPTURE(d, group, bits, dims, c.top_p, c.capacity);
          const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
          check_lists(c, got);
          agreement.add(want, got);
        }
  CHECK(agreement.jaccard() >= 0.999);
}

namespace {

void compare_far(std::initializer_list<std::int64_t> groups, std::initializer_list<double> deviations) {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(175);
  for (double deviation : deviations) {
    Agreement agreement;
    for (std::int64_t group : groups)
      for (std::int64_t dims : {32, 64})
        for (Combine combine : {Combine::mean, Combine::max}) {
          Case c{2, 2, group, 64, random.integer(2000, 9000), dims, 4};
          c.combine = combine;
          for (std::int64_t slot : {1, 0}) c.add(slot, c.capacity - slot * 700, 20, slot, 3);
          if (deviation > 1e30) c.act = DType::f32;
          c.fill(random, deviation);
          const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
          check_lists(c, got);
          agreement.add(want, got);
        }
    CAPTURE(deviation);
    if (deviation < 1e30) CHECK(agreement.jaccard() >= 0.99);  // beyond, rounding decides; a list it is
  }
}

}  // namespace

TEST_CASE("cuda: select by labels agrees with the CPU however far scores range", "[cuda][shared][long]") {
  compare_far({2, 3, 4, 8}, {0.01, 1.0, 4.0, 16.0, 32.0, 64.0, 128.0, 512.0, 1e5, 1e31});
}
TEST_CASE("cuda: select by labels with scores far apart, small enough for a race checker", "[cuda][shared]") {
  compare_far({4}, {4.0, 64.0, 1e31});
}

TEST_CASE("cuda: select is exact where scores are: whole numbers, ties, all rows equal", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(171);
  for (int repeat = 0; repeat < 20; ++repeat)
    for (std::int64_t kinds : {0, 1, 2, 3, 17}) {
      const bool whole = kinds == 0;  // kinds of rows are far apart, whatever the group
      Case c{2,
             2,
             whole ? 1 : random.integer(1, 8),
             64,
             random.integer(1, random.integer(0, 3) ? 900 : 40000),
             32,
             random.integer(0, 2) ? 4 : 8};
      c.combine = random.integer(0, 1) ? Combine::mean : Combine::max;
      for (std::int64_t slot : {1, 0}) add_any(c, random, slot);
      c.fill(random, 1, kinds);
      if (whole) c.make_whole(random);
      CAPTURE(kinds, c.group, c.bits, c.capacity, c.spans[0].rows, c.spans[0].budget);
      const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
      CHECK(got == want);
    }
}

TEST_CASE("cuda: select with one row, with all but one, and with sinks and window alone", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(172);
  for (SelectBy by : {SelectBy::labels, SelectBy::mass, SelectBy::none}) {
    Case c{6, 2, 1, 64, 5000, 32, 4};
    c.by = by;
    c.add(5, 1, 1, 0, 0);
    c.add(0, 1, 0, 0, 0);
    c.add(3, 5000, 4999, 4, 64);
    c.add(1, 4097, 68, 4, 64);
    c.add(4, 64, 64, 0, 64);
    c.add(2, 65, 30, 30, 0);
    c.fill(random);
    c.make_whole(random);
    for (std::int64_t i = 0; i < 6 * 2 * 5000; ++i) c.mass.push_back(static_cast<float>(random.integer(0, 99)));
    const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
    CHECK(got == want);
  }
}

TEST_CASE("cuda: select by mass, with rows given up, NaN, ties and zeros of both signs", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(173);
  for (int repeat = 0; repeat < 40; ++repeat) {
    Case c{3, 2, 3, 8, repeat % 4 == 0 ? 20000 : 300, 4, 4};
    c.by = SelectBy::mass;
    c.top_p = random.integer(0, 2) ? 1 : 0.7f;
    for (std::int64_t slot : {2, 0}) add_any(c, random, slot);
    c.fill(random);
    for (std::int64_t i = 0; i < 6 * (c.capacity + 5); ++i) {
      const std::int64_t kind = random.integer(0, 9);
      c.mass.push_back(kind == 0                   ? -INFINITY
                       : kind == 1                 ? 0.0f
                       : kind == 2                 ? -0.0f
                       : kind == 3 && c.top_p == 1 ? NAN
                       : kind < 6                  ? static_cast<float>(random.integer(1, 3))
                                                   : static_cast<float>(random.integer(0, 1 << 12)) / 16);
    }
    CAPTURE(c.capacity, c.top_p, c.spans[0].rows, c.spans[0].budget);
    const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
    CHECK(got == want);
  }
}

TEST_CASE("cuda: select is exact for rows of any number, many of one digit", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(180);
  // Of one head, of as many as have teams of fewer blocks, and of more than a device has processors.
  for (const auto& [sessions, heads, most] :
       {std::tuple{1, 1, 700'000}, {2, 4, 300'000}, {3, 16, 90'000}, {3, 48, 50'000}})
    for (int kinds : {1, 2, 300, 1 << 20}) {
      Case c{sessions, heads, 1, 8, random.integer(most * 3 / 4, most), 4, 4};
      c.by = SelectBy::mass;
      c.top_p = random.integer(0, 2) ? 1 : 0.7f;
      for (std::int64_t slot = sessions - 1; slot >= 0; --slot) {
        const std::int64_t rows = random.integer(c.capacity / 2, c.capacity);
        const std::int64_t sinks = random.integer(0, 40), window = random.integer(0, 9000);
        c.add(slot, rows, sinks + window + rows / random.integer(2, 20), sinks, window);
      }
      c.fill(random);
      for (std::int64_t i = 0; i < sessions * heads * (c.capacity + 5); ++i)
        c.mass.push_back(1000 + static_cast<float>(random.integer(1, kinds)) / 8);
      CAPTURE(kinds, heads, c.capacity, c.top_p, c.spans[0].rows, c.spans[0].budget);
      const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
      CHECK(got == want);
    }
}

TEST_CASE("cuda: select with queries that are not numbers takes the lowest rows, as the CPU does", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(174);
  for (std::int64_t bits : {4, 16})
    for (std::int64_t group : {1, 4})
      for (std::int64_t rows : {300, 20000}) {
        Case c{1, 2, group, 64, rows, 32, bits};
        c.add(0, rows, 40, 2, 3);
        c.fill(random);
        c.q.set(1, std::nan(""));  // of head 0 alone
        const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
        CHECK(got[0] == want[0]);
        check_lists(c, got);
      }
}

TEST_CASE("cuda: a session's lists do not depend on the batch, and are the same again", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(175);
  for (std::int64_t group : {1, 4, 8}) {
    Case c{5, 2, group, 128, 30000, 32, 4};
    for (std::int64_t slot : {3, 0, 4, 1, 2}) {
      const std::int64_t rows = random.integer(5000, 30000);
      c.add(slot, rows, rows / 8, 4, 64);
    }
    c.fill(random, 1);
    const std::vector<Rows> together = c.run(*cuda);
    CHECK(together == c.run(*cuda));
    for (std::int64_t p = 0; p < 5; ++p) {
      Case alone = c;
      alone.spans = {c.spans[p]};
      alone.q = Tensor(c.act, c.q_stride);
      for (std::int64_t i = 0; i < c.q_stride; ++i) alone.q.set(i, c.q.get(p * c.q_stride + i));
      CHECK(alone.run(*cuda) == std::vector<Rows>(together.begin() + 2 * p, together.begin() + 2 * p + 2));
    }
    cuda->clear();
  }
}

TEST_CASE("cuda: select sees the row that the launch before it has appended", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(177);
  for (std::int64_t rows : {65, 256, 257, 1024, 5000, 40000})
    for (std::int64_t group : {1, 4}) {
      Case c{2, 2, group, 64, rows, 32, 4};
      for (std::int64_t slot : {1, 0}) c.add(slot, rows, 5, 0, 0);
      c.fill(random);
      c.make_whole(random);
      Tensor qkv(c.act, 2 * (c.q_heads + 4) * c.d);  // keys that agree with the first query of their group
      for (std::int64_t h = 0; h < c.labels.kv_heads; ++h)
        for (std::int64_t j = 0; j < c.dims; ++j) {
          for (std::int64_t i = 0; i < c.d; ++i) c.labels.key_map(h)[j * c.d + i] = i == j;
          c.labels.zero(h)[j] = 0;
          c.put_code(h, rows - 1, j, 0);
        }
      for (std::int64_t t = 0; t < 2; ++t)
        for (std::int64_t h = 0; h < 2; ++h)
          for (std::int64_t i = 0; i < 2 * c.d; ++i) {
            const bool key = i < c.d, up = key && c.q.get(t * c.q_stride + h * group * c.d + i) > 0;
            const std::int64_t at = t * (c.q_heads + 4) * c.d + (c.q_heads + h + (key ? 0 : 2)) * c.d + i % c.d;
            qkv.set(at, up ? 7.5 : 0);
          }
      const auto lists = [&](Rig& rig) {
        const SelectArgs a = c.args(rig, rig.put(Tensor(DType::f32, c.scratch_floats())));
        const std::int64_t head_bytes = rows * 2 * c.d * size_of(c.act);
        const KvTile kv{rig.put(Tensor(c.act, 4 * rows * 2 * c.d)), head_bytes, 0, rows, 2 * head_bytes};
        rig.stream->launch(AppendStepArgs{rig.put(qkv), c.act, a.batch, kv, {}, a.labels, c.q_heads, 2, c.d});
        rig.stream->launch(a);
        return c.lists(rig, a);
      };
      CAPTURE(rows, group);
      const auto [want, got] = on_both(*cuda, lists);
      for (const Rows& list : got) CHECK(list.back() == rows - 1);
      if (group == 1) CHECK(got == want);
    }
}

TEST_CASE("cuda: selections that follow one another share their scratch", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(178);
  std::vector<Case> cases;
  for (int i = 0; i < 12; ++i) {
    const std::int64_t dims = random.integer(0, 2) ? 32 : 64;
    Case c{3, 2, std::int64_t{1} << random.integer(0, 3), 128, random.integer(2000, 90000), dims, 4};
    for (std::int64_t slot : {2, 0, 1}) add_any(c, random, slot);
    c.fill(random);
    cases.push_back(std::move(c));
  }
  std::int64_t floats = 0;
  for (const Case& c : cases) floats = std::max(floats, c.scratch_floats());
  std::byte* scratch = cuda->put(Tensor(DType::f32, floats));
  std::vector<SelectArgs> args;
  for (const Case& c : cases) args.push_back(c.args(*cuda, scratch));
  for (const SelectArgs& a : args) cuda->stream->launch(a);
  std::vector<std::vector<Rows>> together;
  for (std::size_t i = 0; i < cases.size(); ++i) together.push_back(cases[i].lists(*cuda, args[i]));
  for (std::size_t i = 0; i < cases.size(); ++i) CHECK(cases[i].run(*cuda) == together[i]);
  cuda->clear();
}

TEST_CASE("cuda: select for more heads than there are processors", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(179);
  Case c{64, 8, 1, 64, 200, 32, 4};
  for (std::int64_t slot = 63; slot >= 0; --slot) add_any(c, random, slot);
  c.fill(random);
  c.make_whole(random);
  const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
  CHECK(got == want);
}

TEST_CASE("cuda: select out of a million rows, and for 64 sessions", "[cuda][shared][large]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(176);
  for (double deviation : {0.01, 3.0, 10.0}) {
    Case c{1, 2, 4, 128, 1 << 20, 32, 4};
    c.act = DType::bf16;
    c.add(0, (1 << 20) - 5, 65536, 4, 64);
    c.fill(random, deviation);
    const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
    check_lists(c, got);
    Agreement agreement;
    agreement.add(want, got);
    CHECK(agreement.jaccard() >= 0.999);
  }
  Case c{64, 4, 4, 64, 2000, 16, 4};
  for (std::int64_t slot = 63; slot >= 0; --slot) add_any(c, random, slot);
  c.fill(random);
  const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
  check_lists(c, got);
  Agreement agreement;
  agreement.add(want, got);
  CHECK(agreement.jaccard() >= 0.999);
}
