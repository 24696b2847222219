// locate, gather, retain, fill: against plain loops and, for the cache, a model of its rule.
#include <algorithm>
#include <numeric>
#include <set>

#include "kernels/cpu/ops.h"
#include "tests/support/batch.h"
#include "tests/support/catch.h"
#include "tests/support/random.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

using Ints = std::vector<std::int32_t>;
constexpr std::int64_t kHeads = 3, kTokens = 2, kLists = kTokens * kHeads;

/// Some rows of [0, n) for each token and head.
struct Lists {
  std::int64_t stride;
  Ints rows = Ints(kLists * stride, -1), count = Ints(kLists, 0);

  RowList view() { return {rows.data(), count.data(), stride}; }
  Ints of(std::int64_t h) const { return {rows.begin() + h * stride, rows.begin() + h * stride + count[h]}; }
  void draw(Random& random, std::int64_t n, std::int64_t most) {
    for (std::int64_t h = 0; h < kLists; ++h) {
      std::set<std::int32_t> some;
      for (std::int64_t i = random.integer(0, most); i > 0; --i)
        some.insert(static_cast<std::int32_t>(random.integer(0, n - 1)));
      std::copy(some.begin(), some.end(), rows.begin() + h * stride);
      count[h] = static_cast<std::int32_t>(some.size());
    }
  }
};

/// Of the n-th list's session and KV head.
std::int64_t head_of(const Batch& batch, std::int64_t n) { return batch.spans[n / kHeads].slot * kHeads + n % kHeads; }

}  // namespace

TEST_CASE("locate: every row where it is, the missing ones behind what is staged") {
  Random random(90);
  for (int repeat = 0; repeat < 300; ++repeat) {
    const std::int64_t n = random.integer(1, 200), prefix = random.integer(0, n);
    const std::int64_t ring_rows = n - prefix + random.integer(1, 4);
    Batch batch(random, kTokens, n);
    for (StepSpan& span : batch.spans) {
      span.rows = static_cast<std::int32_t>(n);
      span.ring_first = static_cast<std::int32_t>(random.integer(prefix, n));
    }
    const bool with_cache = random.integer(0, 3), with_staged = random.integer(0, 3);
    Lists selected{n}, staged{n}, missing{n};
    selected.draw(random, n, n), staged.draw(random, n, n);
    Ints slot_of(batch.slots * kHeads * n), places(kLists * n, -1);
    for (auto& slot : slot_of) slot = random.integer(0, 3) ? -1 : static_cast<std::int32_t>(random.integer(0, 50));
    std::int64_t tally[kTally] = {100, 200, 300, 400}, want_tally[kTally] = {100, 200, 300, 400};
    const ResidentSet set{with_cache ? slot_of.data() : nullptr, n, kHeads * n};
    cpu::locate({batch.view(), selected.view(), prefix, ring_rows, set, with_staged ? staged.view() : RowList{},
                 missing.view(), places.data(), tally, kHeads});
    for (std::int64_t h = 0; h < kLists; ++h) {
      const std::int32_t *slots = &slot_of[head_of(batch, h) * n], ring_first = batch.spans[h / kHeads].ring_first;
      Ints want_missing, want_places;
      const Ints held = with_staged ? staged.of(h) : Ints{};
      for (std::int32_t r : selected.of(h)) {
        const auto found = std::find(held.begin(), held.end(), r);
        ++want_tally[kAttended];
        if (r < prefix) want_places.push_back(row_place(Region::prefix, r));
        else if (r >= ring_first) want_places.push_back(row_place(Region::ring, r % ring_rows));
        else if (with_cache && slots[r] >= 0)
          want_places.push_back(row_place(Region::cache, slots[r])), ++want_tally[kCacheHits];
        else if (found != held.end())
          want_places.push_back(row_place(Region::staging, found - held.begin())), ++want_tally[kStagedHits];
        else {
          want_places.push_back(row_place(Region::staging, held.size() + want_missing.size()));
          want_missing.push_back(r), ++want_tally[kMissed];
        }
      }
      CHECK(missing.of(h) == want_missing);
      CHECK(Ints(places.begin() + h * n, places.begin() + h * n + selected.count[h]) == want_places);
      CHECK(std::all_of(places.begin() + h * n + selected.count[h], places.begin() + (h + 1) * n,
                        [](auto p) { return p == -1; }));
    }
    CHECK(std::equal(tally, tally + kTally, want_tally));
    Lists again{n};
    cpu::locate({batch.view(), selected.view(), prefix, ring_rows, set, with_staged ? staged.view() : RowList{},
                 again.view(), nullptr, nullptr, kHeads});
    CHECK(again.rows == missing.rows);
  }
}

TEST_CASE("gather: listed rows in order from a place on, and nothing else") {
  Random random(91);
  for (std::int64_t most : {0, 5, 60, 900})
    for (bool first_given : {true, false})
      for (std::int64_t row_bytes : {32, 512, 640}) {
        const std::int64_t n = 1000, base = 40, places = most + 30;
        Batch batch(random, kTokens, base + n);
        for (StepSpan& span : batch.spans) span.host_first = static_cast<std::int32_t>(span.slot * kHeads * n);
        std::vector<std::byte> src(batch.slots * kHeads * n * row_bytes), dst(kLists * places * row_bytes);
        std::fill(dst.begin(), dst.end(), std::byte{0xee});
        for (std::size_t i = 0; i < src.size(); ++i) src[i] = static_cast<std::byte>(random.integer(0, 255));
        std::vector<std::byte> want = dst;
        Lists rows{n};
        rows.draw(random, n, most);
        for (auto& r : rows.rows) r += base;
        Ints first(kLists);
        std::int64_t total = 0;
        for (std::int64_t h = 0; h < kLists; ++h) {
          first[h] = first_given ? static_cast<std::int32_t>(random.integer(0, 30)) : 0;
          total += rows.count[h];
          std::int64_t place = first[h];
          for (std::int32_t r : rows.of(h))
            std::copy_n(src.begin() + (head_of(batch, h) * n + r - base) * row_bytes, row_bytes,
                        want.begin() + (h * places + place++) * row_bytes);
        }
        const std::int64_t src_stride = n * row_bytes, dst_stride = places * row_bytes;
        const std::int64_t bytes = cpu::gather({batch.view(),
                                                rows.view(),
                                                {src.data(), src_stride, base, n},
                                                {dst.data(), dst_stride, 0, places, kHeads * dst_stride},
                                                first_given ? first.data() : nullptr,
                                                kHeads,
                                                row_bytes});
        CHECK(bytes == total * row_bytes);
        CHECK(dst == want);
      }
}

TEST_CASE("retain: the least recently used slots, over many random steps") {
  Random random(92);
  for (std::int64_t slots : {1, 7, 40, 130})
    for (bool placed : {true, false}) {
      constexpr std::int64_t kRowBytes = 8;
      const std::int64_t n = 120;
      Batch batch(random, kTokens, n);
      const std::int64_t heads = batch.slots * kHeads;
      // Every row of every head of every session holds its own number.
      auto number = [&](std::int64_t h, std::int64_t r) { return h * 1000000 + r; };
      std::vector<std::int64_t> staging(kLists * n), cache(heads * slots, -1), prefix(heads * n, -5);
      Ints slot_of(heads * n, -1), row_of(heads * slots, -1), used_at(heads * slots, 12345), places(kLists * n, -1);
      struct Slot {
        std::int32_t row = -1, used = 0;
      };
      std::vector<std::vector<Slot>> model(heads, std::vector<Slot>(slots));
      auto tile = [&](std::vector<std::int64_t>& v, std::int64_t rows) {
        return KvTile{reinterpret_cast<std::byte*>(v.data()), rows * kRowBytes, 0, rows, kHeads * rows * kRowBytes};
      };
      Lists list{n};
      for (std::int32_t now = 1; now < 150; ++now) {
        list.draw(random, n, random.integer(0, 1) ? 10 : 60);
        const std::int64_t begin = random.integer(0, 20);
        for (StepSpan& span : batch.spans) {
          span.rows = now;
          span.ring_first = static_cast<std::int32_t>(n - random.integer(0, 20));
        }
        const std::int64_t staged_first = placed ? 0 : random.integer(0, begin);
        std::vector<std::vector<bool>> staged(kLists, std::vector<bool>(n, !placed));
        for (std::int64_t h = 0; h < kLists; ++h) {
          const std::int64_t head = head_of(batch, h), end = batch.spans[h / kHeads].ring_first;
          std::vector<Slot>& held = model[head];
          for (std::int64_t i = 0; i < n; ++i) staging[h * n + i] = placed ? -9 : number(head, i + staged_first);
          std::int64_t next = 0;
          if (placed)
            for (std::int64_t i = 0; i < list.count[h]; ++i) {
              const std::int32_t r = list.rows[h * n + i], slot = slot_of[head * n + r];
              staged[h][r] = slot < 0 && random.integer(0, 4);
              places[h * n + i] = slot >= 0      ? row_place(Region::cache, slot)
                                  : staged[h][r] ? row_place(Region::staging, next)
                                                 : row_place(Region::prefix, r);
              if (staged[h][r]) staging[h * n + next++] = number(head, r);
            }
          // The model.
          std::vector<std::int32_t> incoming;
          for (std::int32_t r : list.of(h)) {
            auto found = std::find_if(held.begin(), held.end(), [&](const Slot& s) { return s.row == r; });
            if (found != held.end()) found->used = now;
            else if (r >= begin && r < end && staged[h][r]) incoming.push_back(r);
          }
          std::set<Slot*> given;
          while (given.size() < incoming.size()) {
            Slot* best = nullptr;
            for (Slot& s : held) {
              if ((s.row >= 0 && s.used == now) || given.contains(&s)) continue;
              if (!best || std::pair(s.row >= 0, s.row >= 0 ? s.used : 0) <
                               std::pair(best->row >= 0, best->row >= 0 ? best->used : 0))
                best = &s;
            }
            if (!best) break;
            given.insert(best);
          }
          auto next_row = incoming.begin();
          for (Slot* s : given) *s = {*next_row++, now};
        }
        KvTile staging_tile = tile(staging, n);
        staging_tile.first = staged_first;
        cpu::retain({batch.view(),
                     list.view(),
                     placed ? places.data() : nullptr,
                     {tile(prefix, n), tile(prefix, n), tile(cache, slots), staging_tile},
                     begin,
                     {slot_of.data(), n, kHeads * n, row_of.data(), used_at.data(), slots, kHeads * slots},
                     kHeads,
                     kRowBytes});
        for (std::int64_t h = 0; h < heads; ++h) {
          for (std::int64_t s = 0; s < slots; ++s) {
            const std::int32_t row = model[h][s].row;
            REQUIRE(row_of[h * slots + s] == row);
            if (row < 0) continue;
            REQUIRE(slot_of[h * n + row] == s);
            REQUIRE(used_at[h * slots + s] == model[h][s].used);
            REQUIRE(cache[h * slots + s] == number(h, row));
          }
          const auto held = std::count_if(model[h].begin(), model[h].end(), [](const Slot& s) { return s.row >= 0; });
          const auto mapped = std::count_if(slot_of.begin() + h * n, slot_of.begin() + (h + 1) * n,
                                            [](std::int32_t s) { return s >= 0; });
          REQUIRE(mapped == held);
        }
      }
    }
}

TEST_CASE("fill: every element and no more") {
  Ints out(300001, 7);
  cpu::fill({out.data(), -1, 300000});
  CHECK(std::count(out.begin(), out.end(), -1) == 300000);
  CHECK(out.back() == 7);
}
