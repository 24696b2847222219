// Dual-chunk attention of a decode step on the CPU: a batch whose tokens are in different chunks, over prefix, tiles,
// ring and lists, leaves the bits of one run and the numbers of the definition.
#include "kernels/base/bytes.h"
#include "kernels/cpu/ops.h"
#include "tests/support/batch.h"
#include "tests/support/catch.h"
#include "tests/support/isa.h"
#include "tests/support/query_forms.h"

using namespace longhaul;
using namespace longhaul::test;

TEST_CASE("dual-chunk attend_step: prefix, tiles and ring leave the bits of one run, and the definition's numbers",
          "[numbers]") {
  Random random(302);
  constexpr std::int64_t kRows = 1088, kKvHeads = 2, kD = 24;
  for (DType act : {DType::bf16, DType::f32})
    for (bool alike : {true, false})
      for (std::int64_t prefix : {0, 192, 640})
        for (std::int64_t ring_rows : {64, 320})
          for_each_isa([&] {
            Batch batch(random, 4, kRows);
            Cache cache{act, batch.slots, kKvHeads, kRows, kD}, ring{act, batch.slots, kKvHeads, ring_rows, kD};
            cache.kv = random.normal(act, cache.kv.size);
            ThreeForms q{act, batch.count, 6, kD, 256};
            q.fill(random, alike);
            for (std::int64_t t = 0; t < batch.count; ++t) {
              StepSpan& span = batch.spans[t];
              span.rows = static_cast<std::int32_t>(t * 256 + random.integer(1, 256));  // in chunk t
              const std::int64_t oldest = round_up(std::max<std::int64_t>(span.rows - ring_rows, 0), kAttendBlock);
              span.ring_first = static_cast<std::int32_t>(std::min<std::int64_t>(std::max(prefix, oldest), span.rows));
              for (std::int64_t h = 0; h < kKvHeads; ++h)
                for (std::int64_t r = span.ring_first; r < span.rows; ++r)
                  std::memcpy(ring.kv.at(((span.slot * kKvHeads + h) * ring_rows + r % ring_rows) * 2 * kD),
                              cache.kv.at(((span.slot * kKvHeads + h) * kRows + r) * 2 * kD), 2 * kD * size_of(act));
            }
            const auto step = [&](Attended& to, std::int64_t t, std::int64_t count, KvTile kv, StepRows from,
                                  bool fresh, bool forms) {
              const StepBatch spans{batch.spans.data() + t, count, kRows};
              cpu::attend_step({q.q.at(t * q.stride), q.stride, spans, kv, from, to.view(t * q.q_heads), nullptr, fresh,
                                act, q.q_heads, kKvHeads, kD, scale_of(kD), 0, forms ? q.forms(t) : QueryForms{}});
            };
            const auto finished = [&](Attended r) {
              cpu::finish({r.view(), r.out.data(), act, batch.count, q.q_heads, kD});
              return r;
            };
            const auto whole = [&](bool forms) {
              Attended r(act, batch.count * q.q_heads, kD);
              step(r, 0, batch.count, cache.tile(), StepRows::tile, true, forms);
              return finished(r);
            };
            const Attended want = whole(true);
            if (alike) CHECK(want == whole(false));
            for (std::int64_t tile_rows : {64, 128, 1024}) {
              Attended r(act, batch.count * q.q_heads, kD);
              KvTile resident = cache.tile();
              resident.rows = prefix;
              step(r, 0, batch.count, resident, StepRows::tile, true, true);
              for (std::int64_t t = 0; t < batch.count; ++t)
                for (std::int64_t first = prefix, end = batch.spans[t].ring_first; first < end; first += tile_rows) {
                  KvTile part = cache.tile();
                  part.data += batch.spans[t].slot * part.session_stride + first * 2 * kD * size_of(act);
                  part.session_stride = 0, part.first = first, part.rows = std::min(tile_rows, end - first);
                  step(r, t, 1, part, StepRows::tile, false, true);
                }
              step(r, 0, batch.count, ring.tile(), StepRows::ring, false, true);
              CHECK(finished(r) == want);
            }
            // A list of all rows has the same bits.
            const std::int64_t lists = batch.count * kKvHeads;
            std::vector<std::int32_t> rows(lists * kRows), counts(lists);
            for (std::int64_t n = 0; n < lists; ++n) {
              std::iota(rows.begin() + n * kRows, rows.begin() + (n + 1) * kRows, 0);
              counts[n] = batch.spans[n / kKvHeads].rows;
            }
            Attended listed(act, batch.count * q.q_heads, kD);
            Tensor scores(DType::f32, batch.count * q.q_heads * kRows);
            cpu::finish_list({{.q = q.q.data(),
                               .q_stride = q.stride,
                               .batch = batch.view(),
                               .rows = {rows.data(), counts.data(), kRows},
                               .regions = {.prefix = cache.tile()},
                               .scores = scores.floats(),
                               .state = listed.view(),
                               .act = act,
                               .q_heads = q.q_heads,
                               .kv_heads = kKvHeads,
                               .head_dim = kD,
                               .scale = scale_of(kD),
                               .forms = q.forms()},
                              false,
                              listed.out.data()});
            CHECK(listed == want);
            Doubles exact;
            for (std::int64_t t = 0; t < batch.count; ++t)
              for (std::int64_t g = 0; g < q.q_heads; ++g)
                add_output(exact, q, cache, batch.spans[t].slot, t, g, batch.spans[t].rows - 1,
                           run_of(0, batch.spans[t].rows));
            CHECK(nmse(want.out.values(), exact) <= limit_of(act));
          });
}

TEST_CASE("dual-chunk attend_list: rows that land late have the bits of all at once, and the definition's numbers",
          "[numbers]") {
  Random random(303);
  constexpr std::int64_t kRows = 900, kKvHeads = 2, kD = 16;
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t percent : {3, 30, 90})
      for_each_isa([&] {
        Batch batch(random, 3, kRows);
        Cache cache{act, batch.slots, kKvHeads, kRows, kD}, staging{act, batch.count, kKvHeads, kRows, kD};
        cache.kv = random.normal(act, cache.kv.size);
        ThreeForms q{act, batch.count, 4, kD, 256};
        q.fill(random, false);
        const std::int64_t lists = batch.count * kKvHeads;
        std::vector<std::int32_t> rows(lists * kRows), counts(lists), places = rows, landed(lists), missed(lists);
        for (std::int64_t n = 0; n < lists; ++n) {
          StepSpan& span = batch.spans[n / kKvHeads];
          if (n % kKvHeads == 0) span.rows = static_cast<std::int32_t>(random.integer(n / kKvHeads * 256 + 1, kRows));
          std::int32_t staged = 0;
          for (std::int32_t r = 0; r < span.rows; ++r) {
            if (random.integer(0, 99) >= percent) continue;
            const bool here = random.integer(0, 1) == 1;
            std::int32_t& place = places[n * kRows + counts[n]];
            if (here) place = row_place(Region::prefix, r);
            else {
              std::memcpy(staging.kv.at((n * kRows + staged) * 2 * kD),
                          cache.kv.at(((span.slot * kKvHeads + n % kKvHeads) * kRows + r) * 2 * kD),
                          2 * kD * size_of(act));
              place = row_place(Region::staging, staged++);
            }
            rows[n * kRows + counts[n]++] = r;
          }
          landed[n] = staged / 2, missed[n] = staged - landed[n];
        }
        const auto args = [&](Attended& to, Tensor& scores, bool placed) {
          AttendListArgs a{.q = q.q.data(),
                           .q_stride = q.stride,
                           .batch = batch.view(),
                           .rows = {rows.data(), counts.data(), kRows},
                           .regions = {.prefix = cache.tile()},
                           .scores = scores.floats(),
                           .state = to.view(),
                           .act = act,
                           .q_heads = q.q_heads,
                           .kv_heads = kKvHeads,
                           .head_dim = kD,
                           .scale = scale_of(kD),
                           .forms = q.forms()};
          if (!placed) return a;
          a.places = places.data(), a.landed = landed.data(), a.missed = missed.data();
          a.regions.ring = a.regions.cache = cache.tile(), a.regions.staging = staging.tile();
          return a;
        };
        Attended once(act, batch.count * q.q_heads, kD), halves = once;
        Tensor scores(DType::f32, batch.count * q.q_heads * kRows), more = scores;
        cpu::finish_list({args(once, scores, false), false, once.out.data()});
        cpu::score_list({args(halves, more, true)});
        cpu::finish_list({args(halves, more, true), true, halves.out.data()});
        CHECK(halves == once);
        Doubles exact;
        for (std::int64_t i = 0; i < batch.count * q.q_heads; ++i) {
          const std::int64_t n = i / 2, t = i / q.q_heads;
          const std::vector<std::int64_t> listed(rows.begin() + n * kRows, rows.begin() + n * kRows + counts[n]);
          add_output(exact, q, cache, batch.spans[t].slot, t, i % q.q_heads, batch.spans[t].rows - 1, listed);
        }
        CHECK(nmse(once.out.values(), exact) <= limit_of(act));
      });
}
