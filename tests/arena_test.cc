#include "kernels/arena.h"

#include <cstring>
#include <random>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/host_memory.h"
#include "tests/support/catch.h"

using namespace longhaul;

namespace {

/// A layout as product code writes one: the same for counting and for carving.
std::vector<std::pair<std::byte*, std::int64_t>> lay_out(Arena& arena, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::pair<std::byte*, std::int64_t>> pieces;
  for (int i = 0; i < 50; ++i) {
    std::int64_t count = random() % 2000;
    pieces.emplace_back(reinterpret_cast<std::byte*>(arena.take<float>(count, i % 3 == 0 ? "labels" : "rows")),
                        count * 4);
  }
  return pieces;
}

}  // namespace

TEST_CASE("the plan and its use agree byte for byte", "[arena]") {
  auto seed = GENERATE(range(1, 6));
  Arena plan;
  for (auto [data, bytes] : lay_out(plan, seed)) CHECK(data == nullptr);
  REQUIRE(plan.counting());

  HostMemory memory(plan.used(), "test");
  Arena arena(memory.data(), memory.size(), "test");
  auto pieces = lay_out(arena, seed);
  CHECK_FALSE(arena.counting());
  CHECK(arena.used() == plan.used());
  REQUIRE(arena.items().size() == plan.items().size());
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < plan.items().size(); ++i) {
    CHECK(arena.items()[i].name == plan.items()[i].name);
    CHECK(arena.items()[i].bytes == plan.items()[i].bytes);
    sum += plan.items()[i].bytes;
  }
  CHECK(sum == plan.used());

  std::byte* end = memory.data();  // pieces are aligned, apart, inside
  for (auto [data, bytes] : pieces) {
    CHECK(reinterpret_cast<std::uintptr_t>(data) % Arena::kAlign == 0);
    CHECK(data >= end);
    end = data + bytes;
  }
  CHECK(end <= memory.data() + memory.size());
}

TEST_CASE("carving past the end is refused, with what was asked and what is left", "[arena]") {
  HostMemory memory(1024, "test");
  Arena arena(memory.data(), 1024, "device memory");
  arena.take<std::byte>(513, "rows");  // 768 with its padding
  try {
    arena.take<std::byte>(257, "labels");
    FAIL("given more than there is");
  } catch (const OutOfMemory& error) {
    CHECK(error.asked == 512);
    CHECK(error.left == 256);
    CHECK_THAT(error.where, test::contains("device memory") && test::contains("labels"));
  }
  CHECK(arena.used() == 768);  // a refusal takes nothing
  CHECK(arena.take<std::byte>(256, "labels") == memory.data() + 768);
}

TEST_CASE("an arena over no memory carves, and so refuses", "[arena]") {
  Arena arena(nullptr, 0, "nothing");
  CHECK_FALSE(arena.counting());
  CHECK_NOTHROW(arena.take<float>(0, "rows"));
  CHECK_THROWS_AS(arena.take<float>(1, "rows"), OutOfMemory);
}

TEST_CASE("an arena's base and sizes are checked", "[arena]") {
  HostMemory memory(4096, "test");
  CHECK_THROWS_AS(Arena(memory.data() + 16, 1024, "test"), std::logic_error);
  Arena plan;
  CHECK_THROWS_AS(plan.take_bytes(-1, "rows"), std::logic_error);
}
