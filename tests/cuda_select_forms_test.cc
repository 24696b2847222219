// select by labels where queries have three forms: CPU and CUDA give the same lists, as in cuda_select_test.cc.
#include "tests/support/select_case.h"

using namespace longhaul;
using namespace longhaul::test;
using namespace longhaul::test::selecting;

namespace {

/// Sessions that end in chunks 0, 1, 2, and later, the first of them at a border.
void add_sessions(Case& c, Random& random, std::int64_t chunk) {
  const std::int64_t lengths[] = {random.integer(1, chunk), chunk + 1, random.integer(2 * chunk, 3 * chunk),
                                  c.capacity};
  for (std::int64_t slot : {2, 0, 3, 1}) {
    const std::int64_t rows = std::min(lengths[slot], c.capacity);
    const std::int64_t sinks = random.integer(0, std::min<std::int64_t>(4, rows));
    const std::int64_t window = random.integer(0, std::min<std::int64_t>(70, rows - sinks));
    c.add(slot, rows, random.integer(std::max<std::int64_t>(1, sinks + window), rows), sinks, window);
  }
}

using Sizes = std::initializer_list<std::int64_t>;

void compare_lists(std::int64_t d, Sizes groups, Sizes chunks) {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(270);
  Agreement agreement;
  for (std::int64_t group : groups)
    for (std::int64_t bits : {4, 8, 16})
      for (std::int64_t dims : {random.integer(1, d), std::min<std::int64_t>(d, 32), std::min<std::int64_t>(d, 64)})
        for (std::int64_t chunk : chunks) {
          Case c{4, random.integer(1, 3), group, d, random.integer(3 * chunk + 1, 6 * chunk), dims, bits};
          c.act = random.integer(0, 1) ? DType::f32 : DType::bf16;
          c.combine = random.integer(0, 1) ? Combine::mean : Combine::max;
          c.top_p = random.integer(0, 2) ? 1 : 0.9f;
          add_sessions(c, random, chunk);
          c.fill(random, 1);
          c.fill_forms(random, chunk, false, 1);
          CAPTURE(name_of(c.act), d, group, bits, dims, chunk, c.top_p, c.capacity);
          const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
          check_lists(c, got);
          agreement.add(want, got);
        }
  CHECK(agreement.jaccard() >= 0.999);
}

void compare_far(Sizes groups, Sizes all_dims, std::initializer_list<double> deviations) {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(276);
  for (double deviation : deviations) {
    Agreement agreement;
    for (std::int64_t group : groups)
      for (std::int64_t dims : all_dims)
        for (Combine combine : {Combine::mean, Combine::max}) {
          Case c{4, 2, group, 64, random.integer(2000, 5000), dims, 4};
          c.combine = combine;
          add_sessions(c, random, 256);
          c.fill(random, deviation);
          c.fill_forms(random, 256, false, deviation);
          CAPTURE(group, dims, c.capacity);
          const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
          check_lists(c, got);
          agreement.add(want, got);
        }
    CAPTURE(deviation);
    CHECK(agreement.jaccard() >= 0.99);
  }
}

}  // namespace

// In a case for each, so that sanitizers end.
TEST_CASE("cuda: select by labels with three forms agrees with the CPU, heads of 8", "[cuda][shared][long]") {
  compare_lists(8, {1, 2, 4, 7, 8, 16}, {256, 1024});
}
TEST_CASE("cuda: select by labels with three forms agrees with the CPU, heads of 64", "[cuda][shared][long]") {
  compare_lists(64, {1, 2, 4, 7, 8, 16}, {256, 1024});
}
TEST_CASE("cuda: select by labels with three forms agrees with the CPU, heads of 128", "[cuda][shared][long]") {
  compare_lists(128, {1, 2, 4, 7, 8, 16}, {256, 1024});
}
TEST_CASE("cuda: select by labels with three forms agrees with the CPU, heads of 256", "[cuda][shared][long]") {
  compare_lists(256, {1, 2, 4, 7, 8, 16}, {256, 1024});
}

TEST_CASE("cuda: select by labels with three forms, small enough for a race checker", "[cuda][shared]") {
  compare_lists(64, {1, 4, 8}, {256});
}

TEST_CASE("cuda: select with three forms is exact where scores are", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(271);
  for (int repeat = 0; repeat < 12; ++repeat)
    for (std::int64_t chunk : {256, 512, 1024, 8192})
      for (std::int64_t bits : {4, 8}) {
        Case c{4, 2, 1, 64, random.integer(chunk, 5 * chunk), repeat % 2 == 0 ? 32 : 48, bits};
        add_sessions(c, random, chunk);
        c.fill(random);
        c.fill_forms(random, chunk, false);
        c.make_whole(random);
        c.make_forms_whole(random);
        CAPTURE(chunk, bits, c.dims, c.capacity);
        const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
        CHECK(got == want);
      }
}

TEST_CASE("cuda: select with three forms that are alike lists what one form does", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(272);
  for (std::int64_t group : {1, 4, 8, 12})
    for (std::int64_t dims : {32, 64})
      for (std::int64_t bits : {4, 8})
        for (std::int64_t chunk : {256, 1024}) {
          Case c{4, 2, group, 128, random.integer(3 * chunk, 40 * chunk), dims, bits};
          c.combine = random.integer(0, 1) ? Combine::mean : Combine::max;
          add_sessions(c, random, chunk);
          c.fill(random);
          c.fill_forms(random, chunk, true);
          Case plain = c;
          plain.chunk = 0;
          CAPTURE(group, dims, bits, chunk, c.capacity);
          CHECK(c.run(*cuda) == plain.run(*cuda));
          cuda->clear();
        }
}

TEST_CASE("cuda: select with three forms and the sums that they have left lists what it has listed", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(273);
  for (std::int64_t group : {1, 2, 4, 8})
    for (std::int64_t dims : {8, 32, 64})
      for (std::int64_t chunk : {256, 4096}) {
        Case c{4, random.integer(1, 8), group, 64, random.integer(3 * chunk + 1, 5 * chunk), dims, 4};
        add_sessions(c, random, chunk);
        c.fill(random);
        c.fill_forms(random, chunk, false);
        CAPTURE(group, dims, chunk, c.kv_heads, c.capacity);
        SelectArgs a = c.args(*cuda, cuda->put(Tensor(DType::f32, c.scratch_floats())));
        a.sums = reinterpret_cast<float*>(cuda->put(Tensor(DType::f32, 4 * c.q_heads))), a.sums_stride = c.q_heads;
        cuda->stream->launch(a);
        const auto want = c.lists(*cuda, a);
        a.out = {cuda->put(Rows(4 * c.kv_heads * c.stride(), -7)), cuda->put(Rows(4 * c.kv_heads, -7)), c.stride()};
        a.sums_given = true;
        cuda->stream->launch(a);
        CHECK(c.lists(*cuda, a) == want);
        cuda->clear();
      }
}

TEST_CASE("cuda: select with three forms agrees with the CPU however far their scores lie apart",
          "[cuda][shared][long]") {
  compare_far({2, 4, 8}, {1, 32, 64}, {4.0, 16.0, 32.0, 64.0, 128.0, 512.0, 1e5});
}
TEST_CASE("cuda: select with three forms far apart, small enough for a race checker", "[cuda][shared]") {
  compare_far({4}, {32}, {4.0, 64.0, 1e5});
}

TEST_CASE("cuda: select with three forms for more heads than there are processors", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(274);
  for (std::int64_t group : {1, 4}) {
    Case c{64, 8, group, 64, 1500, 32, 4};
    for (std::int64_t slot = 63; slot >= 0; --slot) add_any(c, random, slot);
    c.fill(random, 1);
    c.fill_forms(random, 256, false, 1);
    if (group == 1) c.make_whole(random), c.make_forms_whole(random);
    const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
    check_lists(c, got);
    if (group == 1) CHECK(got == want);
    Agreement agreement;
    agreement.add(want, got);
    CHECK(agreement.jaccard() >= 0.999);
  }
}

TEST_CASE("cuda: select with three forms out of a million rows", "[cuda][shared][large]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(275);
  for (std::int64_t chunk : {1 << 16, 1 << 18}) {
    Case c{1, 2, 4, 128, 1 << 20, 32, 4};
    c.act = DType::bf16;
    c.add(0, (1 << 20) - 5, 65536, 4, 64);
    c.fill(random, 1);
    c.fill_forms(random, chunk, false, 1);
    const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return c.run(rig); });
    check_lists(c, got);
    Agreement agreement;
    agreement.add(want, got);
    CHECK(agreement.jaccard() >= 0.999);
  }
}
