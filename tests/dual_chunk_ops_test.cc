// Dual-chunk attention, operator by operator on the CPU: rows are asked with the form of their chunk, as the definition
// in double precision has it; forms that are all alike leave the bits of plain attention.
#include "kernels/base/bytes.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/top_rows.h"
#include "tests/support/catch.h"
#include "tests/support/isa.h"
#include "tests/support/labels.h"
#include "tests/support/query_forms.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

Attended attend(ThreeForms& q, Cache& cache, std::int64_t q_pos, QueryForms forms, std::int64_t first = 0) {
  Attended r(q.act, q.tokens * q.q_heads, q.d);
  KvTile tile = cache.tile();
  tile.data += first * 2 * q.d * size_of(q.act);
  tile.first = first, tile.rows -= first;
  cpu::attend({q.q.data(), q.stride, tile, r.view(), r.out.data(), q.act, q.tokens, q.q_heads, cache.kv_heads, q.d,
               q_pos, scale_of(q.d), 0, forms});
  return r;
}

constexpr std::int64_t kSpots[] = {0, 200, 255, 256, 300, 511, 512, 700, 767, 768, 1000};

}  // namespace

TEST_CASE("dual-chunk rope: keys and a query's three forms, at the places of their chunks") {
  Random random(300);
  constexpr std::int64_t kTokens = 9, kHeads = 3, kKvHeads = 2, kD = 16, kChunk = 256;
  std::vector<float> inv_freq(kD / 2);
  for (std::int64_t i = 0; i < kD / 2; ++i) inv_freq[i] = static_cast<float>(std::pow(1e4, -2.0 * i / kD));
  const std::vector<std::int32_t> positions{0, 1, 63, 64, 200, 255, 256, 1000, 100'000};
  const std::vector<float> scales{1, 1, 1.5f, 1, 2, 1, 1, 1.25f, 1};
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t reach : {320, 511, 600}) {
      constexpr std::int64_t kWidth = (kHeads + 2 * kKvHeads) * kD;
      const Tensor before = random.normal(act, kTokens * kWidth);
      Tensor qkv = before, older(act, 2 * (kTokens * kHeads * kD + 8));
      RopeArgs a{.qkv = qkv.data(),
                 .positions = positions.data(),
                 .inv_freq = inv_freq.data(),
                 .freq_stride = 0,
                 .act = act,
                 .tokens = kTokens,
                 .q_heads = kHeads,
                 .kv_heads = kKvHeads,
                 .head_dim = kD,
                 .scale = 1.1f,
                 .scales = scales.data(),
                 .chunk = kChunk,
                 .reach = reach,
                 .older = older.data(),
                 .form_stride = kTokens * kHeads * kD + 8};
      cpu::rope(a);
      const double tolerance = act == DType::bf16 ? 1e-2 : 1e-5;
      for (std::int64_t t = 0; t < kTokens; ++t)
        for (std::int64_t h = 0; h < kHeads + kKvHeads; ++h) {
          Doubles head(kD);
          for (std::int64_t c = 0; c < kD; ++c) head[c] = before.get(t * kWidth + h * kD + c);
          const std::int64_t place = positions[t] % kChunk;
          const std::int64_t at[] = {place, std::min(place + kChunk, reach), std::min(2 * kChunk - 1, reach)};
          for (std::int64_t form = 0; form < (h < kHeads ? 3 : 1); ++form) {
            INFO("token " << t << " head " << h << " form " << form);
            const Doubles want = reference_rope(head, static_cast<std::int32_t>(at[form]), inv_freq, 1.1f * scales[t]);
            for (std::int64_t c = 0; c < kD; ++c) {
              const double got = form == 0 ? qkv.get(t * kWidth + h * kD + c)
                                           : older.get((form - 1) * a.form_stride + (t * kHeads + h) * kD + c);
              CHECK(got == Approx(want[c]).margin(tolerance).epsilon(tolerance));
            }
          }
        }
      // Within the first chunk a query's own form is plain RoPE's, to the bit.
      Tensor plain = before;
      a.qkv = plain.data(), a.chunk = 0, a.older = nullptr, a.tokens = 6;
      cpu::rope(a);
      const auto end = plain.bytes.begin() + 6 * kWidth * size_of(act);
      CHECK(std::equal(plain.bytes.begin(), end, qkv.bytes.begin()));
    }
}

TEST_CASE("dual-chunk attend: each row by the form of its chunk, blocks that borders cut", "[numbers]") {
  Random random(301);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t tokens : {1, 5, 40, 300})
      for (std::int64_t chunk : {256, 512})
        for (std::int64_t q_pos : kSpots) {
          Cache cache{act, 1, 2, q_pos + tokens, 16};
          cache.kv = random.normal(act, cache.kv.size);
          ThreeForms q{act, tokens, 4, 16, chunk};
          for_each_isa([&] {
            INFO(name_of(act) << " tokens " << tokens << " chunk " << chunk << " at " << q_pos);
            q.fill(random, true);
            CHECK(attend(q, cache, q_pos, q.forms()) == attend(q, cache, q_pos, {}));
            q.fill(random, false);
            const Attended got = attend(q, cache, q_pos, q.forms());
            Doubles want;
            for (std::int64_t t = 0; t < tokens; ++t)
              for (std::int64_t g = 0; g < 4; ++g)
                add_output(want, q, cache, 0, t, g, q_pos + t, run_of(0, q_pos + t + 1));
            INFO(first_bad(got.out.values(), want, 16, 100 * std::sqrt(limit_of(act))));
            CHECK(nmse(got.out.values(), want) <= limit_of(act));
          });
        }
}

TEST_CASE("dual-chunk add_mass and judge: the definition's attention", "[numbers]") {
  Random random(304);
  constexpr std::int64_t kKvHeads = 2, kD = 16, kGroup = 2;
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t tokens : {7, 290})
      for (std::int64_t q_pos : {0, 250, 500, 700}) {
        INFO(name_of(act) << " tokens " << tokens << " at " << q_pos);
        const std::int64_t rows = q_pos + tokens;
        Cache cache{act, 1, kKvHeads, rows, kD};
        cache.kv = random.normal(act, cache.kv.size);
        ThreeForms q{act, tokens, kKvHeads * kGroup, kD, 256};
        q.fill(random, false);
        Attended state = attend(q, cache, q_pos, q.forms());
        Tensor mass(DType::f32, kKvHeads * rows, 0);
        cpu::add_mass({q.q.data(), q.stride, cache.tile(), state.view(), mass.floats(), rows, act, tokens, q.q_heads,
                       kKvHeads, kD, q_pos, scale_of(kD), q.forms()});
        Doubles want(kKvHeads * rows);
        for (std::int64_t t = 0; t < tokens; ++t)
          for (std::int64_t g = 0; g < q.q_heads; ++g) {
            const Doubles p = probabilities(q, cache, 0, t, g, q_pos + t, run_of(0, q_pos + t + 1));
            for (std::size_t r = 0; r < p.size(); ++r) want[g / kGroup * rows + static_cast<std::int64_t>(r)] += p[r];
          }
        CHECK(nmse(mass.values(), want) <= limit_of(act));

        // The last token's list, of every third row.
        std::vector<std::int32_t> list(kKvHeads * rows), counts(kKvHeads);
        for (std::int64_t h = 0; h < kKvHeads; ++h)
          for (std::int64_t r = h; r < rows; r += 3) list[h * rows + counts[h]++] = static_cast<std::int32_t>(r);
        const auto n = static_cast<std::int32_t>(rows);
        const StepSpan span{0, n, n, n, 0, 0};
        SelectionQuality quality[kKvHeads];
        cpu::judge({q.q.at((tokens - 1) * q.stride),
                    q.stride,
                    {&span, 1, rows},
                    cache.tile(),
                    {list.data(), counts.data(), rows},
                    quality,
                    kKvHeads,
                    act,
                    q.q_heads,
                    kKvHeads,
                    kD,
                    scale_of(kD),
                    q.forms(tokens - 1)});
        for (std::int64_t h = 0; h < kKvHeads; ++h) {
          double kept = 0;
          for (std::int64_t g = h * kGroup; g < (h + 1) * kGroup; ++g) {
            const Doubles p = probabilities(q, cache, 0, tokens - 1, g, rows - 1, run_of(0, rows));
            for (std::int64_t i = 0; i < counts[h]; ++i) kept += p[list[h * rows + i]] / kGroup;
          }
          CHECK(quality[h].mass == Approx(kept).epsilon(act == DType::f32 ? 1e-4 : 1e-3));
        }
      }
}

TEST_CASE("dual-chunk select: scores by labels with each row's form, and what labels lack of it", "[numbers]") {
  Random random(305);
  constexpr std::int64_t kKvHeads = 2, kD = 16, kDims = 6, kSinks = 3, kWindow = 5, kBudget = 60;
  for (std::int64_t bits : {4, 8, 16})
    for (std::int64_t group : {1, 3})
      for (std::int64_t rows : {200, 256, 400, 900, 8700})
        for_each_isa([&] {
          INFO("bits " << bits << " group " << group << " rows " << rows);
          const std::int64_t q_heads = kKvHeads * group, stride = round_up(rows, kAttendBlock);
          Labels labels{kKvHeads, kD, rows, kDims, bits};
          labels.random_basis(random);
          labels.random_tail(random, q_heads);
          Cache cache{DType::f32, 1, kKvHeads, rows, kD};
          cache.kv = random.normal(DType::f32, cache.kv.size);
          cpu::label_rows({cache.tile(), labels.tile(), DType::f32, kKvHeads, kD});
          ThreeForms q{DType::f32, 1, q_heads, kD, 256};
          Tensor scratch(DType::f32, select_floats(1, q_heads, kKvHeads, rows));
          std::vector<std::int32_t> list(kKvHeads * kBudget), counts(kKvHeads);
          std::vector<float> tail(q_heads);
          const StepSpan span{0, static_cast<std::int32_t>(rows), 0, kBudget, kSinks, kWindow};
          const auto run = [&](bool forms) {
            std::ranges::fill(list, -7);
            SelectArgs a{};
            a.q = q.q.data(), a.q_stride = q.stride, a.batch = {&span, 1, rows};
            a.act = DType::f32, a.q_heads = q_heads, a.kv_heads = kKvHeads, a.head_dim = kD, a.scale = scale_of(kD);
            a.by = SelectBy::labels, a.labels = labels.tile(), a.top_p = 1, a.scratch = scratch.floats();
            a.out = {list.data(), counts.data(), kBudget, tail.data()};
            if (forms) a.forms = q.forms();
            cpu::select(a);
          };
          q.fill(random, true);
          run(false);
          const auto plain = list;
          const auto plain_tail = tail;
          run(true);
          CHECK(list == plain);
          CHECK(tail == plain_tail);

          q.fill(random, false);
          run(true);
          const TailFit fit = tail_fit(labels.basis.data(), kKvHeads, kD, kDims);
          for (std::int64_t h = 0; h < kKvHeads; ++h) {
            const auto* keys = reinterpret_cast<const std::uint32_t*>(scratch.floats() + (q_heads + h) * stride);
            Doubles combined(rows - kWindow), got;
            for (std::int64_t r = 0; r < rows - kWindow; ++r) got.push_back(cpu::value_of_key(keys[r]));
            for (std::int64_t g = h * group; g < (h + 1) * group; ++g) {
              Doubles s;
              for (std::int64_t r = 0; r < rows - kWindow; ++r)
                s.push_back(scale_of(kD) * q.dot(0, g, rows - 1, r, [&](std::int64_t c) {
                  double key = fit.beside[h * kD + c];
                  for (std::int64_t j = 0; j < kDims; ++j)
                    key += (labels.coordinate(h, r, j) - (bits < 16 ? labels.zero(h)[j] : 0)) *
                           labels.query_map(h)[j * kD + c];
                  return key;
                }));
              const double top = *std::ranges::max_element(s);
              double sum = 0, left = 0;
              for (double& x : s) sum += x = std::exp(x - top);
              for (std::int64_t r = 0; r < rows - kWindow; ++r) {
                combined[r] += s[r] / sum / static_cast<double>(group);
                if (!std::count(&list[h * kBudget], &list[h * kBudget] + counts[h], r)) left += s[r];
              }
              CHECK(tail[g] == Approx(top + std::log(left * fit.weights[g])).epsilon(1e-4).margin(1e-4));
            }
            CHECK(nmse(got, combined) <= 1e-9);
            // What is listed scores as high as what is not.
            double lowest = INFINITY, highest = 0;
            for (std::int64_t r = kSinks; r < rows - kWindow; ++r) {
              const bool in = std::count(&list[h * kBudget], &list[h * kBudget] + counts[h], r) > 0;
              if (in) lowest = std::min(lowest, got[r]);
              else highest = std::max(highest, got[r]);
            }
            CHECK(counts[h] == kBudget);
            CHECK(lowest >= highest);
          }
        });
}
