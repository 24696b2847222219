// Law 8 for locate, retain and gather: the CUDA device leaves what the CPU device leaves, to the bit, in every array.
#include <algorithm>
#include <map>
#include <set>

#include "kernels/base/host_memory.h"
#include "tests/support/batch.h"
#include "tests/support/cuda_rig.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

using Ints = std::vector<std::int32_t>;

/// `count` rows of [0, n), ascending.
Ints some_rows(Random& random, std::int64_t n, std::int64_t count) {
  Ints rows;
  for (std::int64_t r = 0; r < n && count > 0; ++r)
    if (random.integer(0, n - r - 1) < count) rows.push_back(static_cast<std::int32_t>(r)), --count;
  return rows;
}

/// Lists on the host; unused entries are poisoned.
struct Lists {
  std::int64_t lists, stride;
  Ints rows = Ints(static_cast<std::size_t>(lists * stride), -7), count = Ints(static_cast<std::size_t>(lists), 0);

  void set(std::int64_t list, const Ints& v) {
    std::copy(v.begin(), v.end(), rows.begin() + list * stride);
    count[static_cast<std::size_t>(list)] = static_cast<std::int32_t>(v.size());
  }
  RowList put(Rig& rig) const { return {rig.put(rows), rig.put(count), stride}; }
};

/// Empty, full, or in between.
std::int64_t some_count(Random& random, std::int64_t most) {
  return std::vector<std::int64_t>{0, most, random.integer(0, most),
                                   random.integer(0, most / 8)}[static_cast<std::size_t>(random.integer(0, 3))];
}

struct Shape {
  std::int64_t tokens, heads, n, stride;  // lists of at most `stride` of n rows
};

enum class Held { some, none, all };  // of the selected rows, in the resident set

void check_locate(Rig& cuda, Random& random, const Shape& s, Held held) {
  Batch batch(random, s.tokens, s.n);
  const std::int64_t lists = s.tokens * s.heads, prefix = random.integer(0, s.n / 8), most = std::min(s.n, s.stride);
  for (StepSpan& span : batch.spans)
    span.rows = static_cast<std::int32_t>(s.n),
    span.ring_first = static_cast<std::int32_t>(random.integer(prefix, s.n));
  Ints slot_of(static_cast<std::size_t>(batch.slots * s.heads * s.n));
  for (auto& slot : slot_of) {
    const bool in = held == Held::all || (held == Held::some && random.integer(0, 2) == 0);
    slot = in ? static_cast<std::int32_t>(random.integer(0, 1000)) : -1;
  }
  Lists selected{lists, s.stride}, staged{lists, s.stride};
  for (std::int64_t i = 0; i < lists; ++i) {
    const Ints rows = some_rows(random, s.n, some_count(random, most));
    const Ints others = some_rows(random, s.n, random.integer(0, most));
    selected.set(i, rows);
    std::set<std::int32_t> both;  // all that is selected, some of it and others, or others alone
    const std::int64_t kind = random.integer(0, 2);
    for (std::int32_t r : rows)
      if (kind == 0 || (kind == 1 && random.integer(0, 1) == 0)) both.insert(r);
    for (std::int32_t r : others)
      if (kind > 0 && static_cast<std::int64_t>(both.size()) < s.stride) both.insert(r);
    staged.set(i, Ints(both.begin(), both.end()));
  }
  const bool with_cache = random.integer(0, 4) > 0, with_staged = random.integer(0, 3) > 0;
  const bool with_places = random.integer(0, 4) > 0, with_tally = random.integer(0, 4) > 0;
  const auto [want, got] = on_both(cuda, [&](Rig& rig) {
    const RowList missing = Lists{lists, s.stride}.put(rig);
    std::int32_t* places = rig.put(Ints(static_cast<std::size_t>(lists * s.stride), -9));
    std::int64_t* tally = rig.put(std::vector<std::int64_t>{100, std::int64_t{1} << 40, 300, 400});
    rig.stream->launch(LocateArgs{.batch = {rig.put(batch.spans), s.tokens, s.n},
                                  .selected = selected.put(rig),
                                  .prefix_rows = prefix,
                                  .ring_rows = s.n + 5,
                                  .resident = {.slot_of = with_cache ? rig.put(slot_of) : nullptr,
                                               .stride = s.n,
                                               .slot_of_session = s.heads * s.n},
                                  .staged = with_staged ? staged.put(rig) : RowList{},
                                  .missing = missing,
                                  .places = with_places ? places : nullptr,
                                  .tally = with_tally ? tally : nullptr,
                                  .kv_heads = s.heads});
    return std::vector{rig.ints(missing.rows, lists * s.stride), rig.ints(missing.count, lists),
                       rig.ints(places, lists * s.stride), rig.ints(tally, 2 * kTally)};
  });
  CAPTURE(s.tokens, s.heads, s.n, s.stride, static_cast<int>(held), with_cache, with_staged);
  for (std::size_t i = 0; i < want.size(); ++i) CHECK(got[i] == want[i]);
}

/// A resident set of every session, as it is at some time.
struct Set {
  Ints slot_of, row_of, used_at;
  std::vector<std::byte> rows;
};

enum class Ages { empty, few, any };  // no slot holds a row; many have the same age; used_at has any value

Set make_set(Random& random, std::int64_t heads, std::int64_t n, std::int64_t slots, std::int64_t row_bytes,
             std::int32_t now, Ages ages) {
  Set set{Ints(static_cast<std::size_t>(heads * n), -1), Ints(static_cast<std::size_t>(heads * slots), -1),
          Ints(static_cast<std::size_t>(heads * slots)),
          std::vector<std::byte>(static_cast<std::size_t>(heads * slots * row_bytes), std::byte{0xcc})};
  for (auto& used : set.used_at)
    used = static_cast<std::int32_t>(static_cast<std::uint32_t>(now) -
                                     static_cast<std::uint32_t>(random.integer(0, ages == Ages::few ? 3 : 0xffffffff)));
  if (ages == Ages::empty) return set;
  for (std::int64_t h = 0; h < heads; ++h) {
    const Ints rows =
        some_rows(random, n, random.integer(0, 1) ? std::min(n, slots) : random.integer(0, std::min(n, slots)));
    std::int64_t slot = 0;
    for (std::int32_t r : rows) {  // slots in disorder: the odd ones from behind
      const std::int64_t at = slot % 2 ? slots - 1 - slot / 2 : slot / 2;
      set.row_of[static_cast<std::size_t>(h * slots + at)] = r;
      set.slot_of[static_cast<std::size_t>(h * n + r)] = static_cast<std::int32_t>(at);
      ++slot;
    }
  }
  return set;
}

void check_retain(Rig& cuda, Random& random, const Shape& s, std::int64_t slots, std::int64_t row_bytes, Ages ages,
                  std::int32_t now, bool placed) {
  Batch batch(random, s.tokens, s.n);
  const std::int64_t lists = s.tokens * s.heads, most = std::min(s.n, s.stride);
  const std::int64_t begin = placed ? random.integer(0, s.n / 10) : s.n - std::min(s.n, s.stride);
  Set set = make_set(random, batch.slots * s.heads, s.n, slots, row_bytes, now, ages);
  for (int step = 0; step < 4; ++step) {
    now = static_cast<std::int32_t>(static_cast<std::uint32_t>(now) + 1);
    Lists list{lists, s.stride};
    Ints places(static_cast<std::size_t>(lists * s.stride), -9);
    std::vector<std::byte> staging(static_cast<std::size_t>(lists * s.stride * row_bytes));
    for (auto& b : staging) b = static_cast<std::byte>(random.integer(0, 255));
    for (std::int64_t i = 0; i < lists; ++i) {
      StepSpan& span = batch.spans[static_cast<std::size_t>(i / s.heads)];
      span.rows = now;
      if (i % s.heads == 0) span.ring_first = static_cast<std::int32_t>(s.n - random.integer(0, s.n / 10));
      const Ints rows = some_rows(random, s.n, some_count(random, most));
      list.set(i, rows);
      const std::int64_t head = span.slot * s.heads + i % s.heads;
      std::int64_t next = 0;
      for (std::size_t j = 0; j < rows.size(); ++j) {
        const std::int32_t slot = set.slot_of[static_cast<std::size_t>(head * s.n + rows[j])];
        places[static_cast<std::size_t>(i * s.stride) + j] = slot >= 0 ? row_place(Region::cache, slot)
                                                             : random.integer(0, 5)
                                                                 ? row_place(Region::staging, next++)
                                                                 : row_place(Region::prefix, rows[j]);
      }
    }
    auto body = [&](Rig& rig) {
      Set after = set;
      const std::int64_t heads = batch.slots * s.heads;
      std::byte *cache = rig.put(after.rows), *staged = rig.put(staging);
      const ResidentSet resident{.slot_of = rig.put(after.slot_of),
                                 .stride = s.n,
                                 .slot_of_session = s.heads * s.n,
                                 .row_of = rig.put(after.row_of),
                                 .used_at = rig.put(after.used_at),
                                 .rows = slots,
                                 .row_of_session = s.heads * slots};
      rig.stream->launch(
          RetainArgs{.batch = {rig.put(batch.spans), s.tokens, s.n},
                     .rows = list.put(rig),
                     .places = placed ? rig.put(places) : nullptr,
                     .regions = {.cache = {cache, slots * row_bytes, 0, slots, s.heads * slots * row_bytes},
                                 .staging = {staged, s.stride * row_bytes, placed ? 0 : begin, s.stride,
                                             s.heads * s.stride * row_bytes}},
                     .begin = begin,
                     .resident = resident,
                     .kv_heads = s.heads,
                     .row_bytes = row_bytes});
      after.slot_of = rig.ints(resident.slot_of, heads * s.n);
      after.row_of = rig.ints(resident.row_of, heads * slots);
      after.used_at = rig.ints(resident.used_at, heads * slots);
      after.rows = rig.get(cache, DType::bf16, heads * slots * row_bytes / 2).bytes;
      return after;
    };
    const auto [want, got] = on_both(cuda, body);
    CAPTURE(s.tokens, s.heads, s.n, s.stride, slots, row_bytes, static_cast<int>(ages), placed, step);
    CHECK(got.slot_of == want.slot_of);
    CHECK(got.row_of == want.row_of);
    CHECK(got.used_at == want.used_at);
    CHECK(got.rows == want.rows);
    set = want;
  }
}

void check_gather(Rig& cuda, Random& random, const Shape& s, std::int64_t row_bytes) {
  Batch batch(random, s.tokens, s.n + 40);
  for (StepSpan& span : batch.spans) span.host_first = static_cast<std::int32_t>(span.slot * s.heads * s.n);
  const std::int64_t lists = s.tokens * s.heads, base = 40, room = s.stride + 30;
  HostMemory store(batch.slots * s.heads * s.n * row_bytes, "test");
  for (std::int64_t i = 0; i < store.size(); ++i) store.data()[i] = static_cast<std::byte>(random.integer(0, 255));
  Lists rows{lists, s.stride};
  Ints first(static_cast<std::size_t>(lists));
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < lists; ++i) {
    rows.set(i, some_rows(random, s.n, some_count(random, std::min(s.n, s.stride))));
    first[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(random.integer(0, 30));
    total += rows.count[static_cast<std::size_t>(i)];
  }
  for (auto& r : rows.rows) r += base;
  const bool with_first = random.integer(0, 3) > 0;
  auto body = [&](Rig& rig) {
    std::byte* dst = rig.put(Tensor(DType::bf16, lists * room * row_bytes / 2, 3));
    rig.device->pin(store.data(), store.size());
    const GatherArgs args{.batch = {rig.put(batch.spans), s.tokens, s.n + base},
                          .rows = rows.put(rig),
                          .src = {store.data(), s.n * row_bytes, base, s.n},
                          .dst = {dst, room * row_bytes, 0, room, s.heads * room * row_bytes},
                          .dst_first = with_first ? rig.put(first) : nullptr,
                          .kv_heads = s.heads,
                          .row_bytes = row_bytes};
    const std::int64_t put = rig.device->counters().h2d_bytes;
    rig.stream->launch(args);
    rig.wait();
    CHECK(rig.device->counters().h2d_bytes - put == total * row_bytes);
    rig.device->unpin(store.data());
    return rig.get(dst, DType::bf16, lists * room * row_bytes / 2).bytes;
  };
  const auto [want, got] = on_both(cuda, body);
  CAPTURE(s.tokens, s.heads, s.n, s.stride, row_bytes, with_first);
  CHECK(got == want);
}

}  // namespace

TEST_CASE("cuda: locate finds every row where the CPU does", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(60);
  for (Held held : {Held::some, Held::none, Held::all})
    for (int repeat = 0; repeat < 12; ++repeat) {
      check_locate(*cuda, random, {random.integer(1, 4), random.integer(1, 5), random.integer(1, 3000), 3000}, held);
      check_locate(*cuda, random, {1, 2, random.integer(1, 40), 40}, held);
    }
  check_locate(*cuda, random, {64, 8, 100, 128}, Held::some);
}

TEST_CASE("cuda: locate, long lists", "[cuda][large]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(61);
  for (Held held : {Held::some, Held::none, Held::all}) {
    check_locate(*cuda, random, {1, 2, 150000, 65536}, held);
    check_locate(*cuda, random, {2, 8, 50000, 16384}, held);
  }
}

TEST_CASE("cuda: retain keeps the rows the CPU keeps, in the same slots", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(62);
  constexpr std::int32_t kLast = std::numeric_limits<std::int32_t>::max();
  for (Ages ages : {Ages::empty, Ages::few, Ages::any})
    for (std::int64_t slots : {1, 7, 40, 130, 1000, 3000})
      for (std::int32_t now : {5, 100000, kLast - 2})
        for (bool placed : {true, false})
          check_retain(*cuda, random, {random.integer(1, 3), random.integer(1, 3), 1200, 1200}, slots,
                       placed ? (slots % 2 ? 64 : 272) : (slots % 2 ? 20 : 0), ages, now, placed);
}

TEST_CASE("cuda: retain, small enough for a race checker", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(66);
  for (Ages ages : {Ages::empty, Ages::few, Ages::any})
    for (std::int64_t slots : {7, 1000})
      for (bool placed : {true, false})
        check_retain(*cuda, random, {random.integer(1, 3), random.integer(1, 3), 1200, 1200}, slots, placed ? 272 : 0,
                     ages, 100000, placed);
}

TEST_CASE("cuda: retain, large resident sets", "[cuda][large]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(63);
  for (Ages ages : {Ages::empty, Ages::few, Ages::any}) {
    check_retain(*cuda, random, {1, 2, 60000, 40000}, 16384, 16, ages, 70000, true);
    check_retain(*cuda, random, {1, 1, 200000, 65536}, 131072, 16, ages, 70000, true);
    check_retain(*cuda, random, {20, 8, 900, 256}, 700, 512, ages, 900, true);
  }
}

TEST_CASE("cuda: gather brings the CPU's rows, every way", "[cuda][shared]") {
  if (cuda_rig() == nullptr) return;
  for (GatherChoice choice : {GatherChoice{GatherRoute::zero_copy}, GatherChoice{GatherRoute::host, 1, 3},
                              GatherChoice{GatherRoute::both, 0.5, 2}}) {
    Rig cuda(make_cuda_device(0, std::int64_t{1} << 30, choice));
    Random random(64);
    for (std::int64_t row_bytes : {4, 36, 32, 80, 144, 272, 512, 640, 2048, 16384})
      for (std::int64_t stride : {5, 300})
        check_gather(cuda, random, {random.integer(1, 3), random.integer(1, 4), 600, stride}, row_bytes);
    check_gather(cuda, random, {16, 8, 300, 100}, 512);
    check_gather(cuda, random, {1, 8, 3000, 2000}, 512);
  }
}
