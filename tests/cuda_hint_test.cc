// select beside other work: with given sums, as look-ahead takes them, and beside a gather.
#include "tests/support/select_case.h"

using namespace longhaul;
using namespace longhaul::test;
using namespace longhaul::test::selecting;

TEST_CASE("cuda: select with the sums that a query has left lists what it has listed", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(175);
  for (std::int64_t group : {1, 2, 4, 8, 12})
    for (std::int64_t dims : {8, 32, 64})
      for (std::int64_t capacity : {random.integer(300, 3000), random.integer(3000, 60000)}) {
        Case c{3, random.integer(1, 8), group, 64, capacity, dims, 4};
        c.combine = random.integer(0, 1) ? Combine::mean : Combine::max;
        c.top_p = random.integer(0, 3) ? 1 : 0.9f;
        for (std::int64_t slot : {2, 0, 1}) add_any(c, random, slot);
        c.fill(random);
        CAPTURE(group, dims, c.kv_heads, c.capacity, c.top_p);
        SelectArgs a = c.args(*cuda, cuda->put(Tensor(DType::f32, c.scratch_floats())));
        a.sums = reinterpret_cast<float*>(cuda->put(Tensor(DType::f32, 3 * c.q_heads))), a.sums_stride = c.q_heads;
        cuda->stream->launch(a);
        const auto want = c.lists(*cuda, a);
        a.out = {cuda->put(Rows(3 * c.kv_heads * c.stride(), -7)), cuda->put(Rows(3 * c.kv_heads, -7)), c.stride()};
        a.sums_given = true;
        cuda->stream->launch(a);
        CHECK(c.lists(*cuda, a) == want);
      }
}

TEST_CASE("cuda: select with given sums agrees with the CPU", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(176);
  Agreement agreement;
  for (std::int64_t group : {2, 4, 7})
    for (std::int64_t dims : {24, 32, 48}) {
      Case c{2, 2, group, 128, 4000, dims, 4};
      for (std::int64_t slot : {1, 0}) c.add(slot, 3900, 500, 4, 64);
      c.fill(random);
      const auto [want, got] = on_both(*cuda, [&](Rig& rig) {
        SelectArgs a = c.args(rig, rig.put(Tensor(DType::f32, c.scratch_floats())));
        Tensor sums(DType::f32, 2 * c.q_heads);
        const double unit = &rig == cuda ? 1.4426950408889634 : 1;  // logarithms of base 2
        for (std::int64_t i = 0; i < sums.size; ++i) sums.set(i, unit * (40 + static_cast<double>(i % 3)));
        a.sums = reinterpret_cast<float*>(rig.put(sums)), a.sums_stride = c.q_heads, a.sums_given = true;
        rig.stream->launch(a);
        return c.lists(rig, a);
      });
      check_lists(c, got);
      agreement.add(want, got);
    }
  CHECK(agreement.jaccard() >= 0.999);
}

TEST_CASE("cuda: selections beside a gather and others, in any order, list the same", "[cuda][shared][long]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(177);
  Case c{1, 8, 4, 128, 30000, 32, 4};
  c.add(0, 29000, 500, 4, 64);
  c.fill(random);
  SelectArgs a = c.args(*cuda, cuda->put(Tensor(DType::f32, c.scratch_floats())));
  cuda->stream->launch(a);
  const auto want = c.lists(*cuda, a);
  for (int i = 0; i < 60; ++i) {  // launches of fewer blocks, and of all, an odd number of either in a row or an even
    a.beside_gather = random.integer(0, 1) == 1;
    a.out = {cuda->put(Rows(c.kv_heads * c.stride(), -7)), cuda->put(Rows(c.kv_heads, -7)), c.stride()};
    cuda->stream->launch(a);
    REQUIRE(c.lists(*cuda, a) == want);
  }
}
