// Law 8 for a mixture of experts: the same routes, and products within a normalised error.
#include <algorithm>
#include <limits>

#include "tests/support/compare.h"
#include "tests/support/cuda_rig.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

struct Mixture {
  DType act;
  std::int64_t tokens, experts, chosen, hidden, inter;
};

struct Mixed {
  std::vector<std::int32_t> expert, place, token, begin;
  Tensor weight, rows, out;
};

Mixed run(Rig& rig, const Mixture& m, bool normalised, const Tensor& logits, const Tensor& x, const Tensor& up,
          const Tensor& down) {
  const std::int64_t pairs = m.tokens * m.chosen;
  auto ints = [&](std::int64_t n) { return rig.put(std::vector<std::int32_t>(static_cast<std::size_t>(n), -7)); };
  const Routes routes{ints(pairs),
                      reinterpret_cast<float*>(rig.put(Tensor(DType::f32, pairs))),
                      ints(pairs),
                      ints(pairs),
                      ints(m.experts + 1),
                      m.experts,
                      m.chosen};
  rig.stream->launch(RouteArgs{reinterpret_cast<float*>(rig.put(logits)), routes, normalised, m.tokens});
  std::byte* inner = rig.put(Tensor(m.act, pairs * m.inter));
  std::byte* rows = rig.put(Tensor(m.act, pairs * m.hidden));
  std::byte* out = rig.put(x);
  rig.stream->launch(ExpertLinearArgs{rig.put(x), true, reinterpret_cast<bf16*>(rig.put(up)), inner, routes, m.act,
                                      m.tokens, m.hidden, m.inter});
  rig.stream->launch(ExpertLinearArgs{inner, false, reinterpret_cast<bf16*>(rig.put(down)), rows, routes, m.act,
                                      m.tokens, m.inter, m.hidden});
  rig.stream->launch(MixArgs{rows, out, routes, m.act, m.tokens, m.hidden});
  return {rig.ints(routes.expert, pairs),
          rig.ints(routes.place, pairs),
          rig.ints(routes.token, pairs),
          rig.ints(routes.begin, m.experts + 1),
          rig.get(routes.weight, DType::f32, pairs),
          rig.get(rows, m.act, pairs * m.hidden),
          rig.get(out, m.act, m.tokens * m.hidden)};
}

/// `normalised`: of the routes.
void check_mixture(Rig& cuda, Random& random, const Mixture& m, bool normalised = true) {
  CAPTURE(name_of(m.act), m.tokens, m.experts, m.chosen, normalised);
  Tensor logits = random.normal(DType::f32, m.tokens * m.experts, 2);
  for (std::int64_t i = 0; i < m.experts; ++i) logits.set(i, std::round(logits.get(i)));  // equals
  const Tensor x = random.normal(m.act, m.tokens * m.hidden);
  const Tensor up = random.normal(DType::bf16, m.experts * m.inter * m.hidden, 0.1);
  const Tensor down = random.normal(DType::bf16, m.experts * m.hidden * m.inter, 0.1);
  const auto [want, got] = on_both(cuda, [&](Rig& rig) { return run(rig, m, normalised, logits, x, up, down); });
  CHECK(got.expert == want.expert);
  CHECK(got.place == want.place);
  CHECK(got.token == want.token);
  CHECK(got.begin == want.begin);
  CHECK(nmse(got.weight.values(), want.weight.values()) <= 1e-11);
  const double limit = m.act == DType::bf16 ? 2e-5 : 1e-11;
  CHECK(nmse(got.rows.values(), want.rows.values()) <= limit);
  CHECK(nmse(got.out.values(), want.out.values()) <= limit);
  if (m.tokens > kDecodeTokens) return;
  // A token alone has the same bits as among others.
  Mixture one = m;
  one.tokens = 1;
  Tensor own_logits(DType::f32, m.experts), own_x(m.act, m.hidden);
  std::memcpy(own_logits.data(), logits.at((m.tokens - 1) * m.experts), own_logits.bytes.size());
  std::memcpy(own_x.data(), Tensor(x).at((m.tokens - 1) * m.hidden), own_x.bytes.size());
  const Mixed alone = run(cuda, one, normalised, own_logits, own_x, up, down);
  CHECK(std::memcmp(alone.out.bytes.data(), got.out.bytes.data() + (m.tokens - 1) * m.hidden * size_of(m.act),
                    alone.out.bytes.size()) == 0);
  cuda.clear();
}

}  // namespace

TEST_CASE("cuda: routes, experts' products and their sum", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(40);
  for (DType act : {DType::bf16, DType::f32})
    for (Mixture m : {Mixture{act, 1, 4, 2, 128, 192},
                      {act, 3, 60, 8, 72, 200},
                      {act, 64, 8, 2, 256, 96},
                      {act, 65, 3, 3, 64, 64},
                      {act, 600, 128, 8, 136, 104}})
      check_mixture(*cuda, random, m);
}

TEST_CASE("cuda: experts, each kernel, small enough for a race checker", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(41);
  for (DType act : {DType::bf16, DType::f32})
    for (Mixture m : {Mixture{act, 1, 4, 1, 72, 40}, {act, 65, 3, 3, 72, 40}, {act, 64, 2, 1, 64, 64}})
      for (bool normalised : {true, false}) check_mixture(*cuda, random, m, normalised);
}

TEST_CASE("cuda: routes of logits that are not finite stay within the experts", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  Random random(42);
  const Mixture m{DType::f32, 6, 5, 3, 8, 8};
  Tensor logits = random.normal(DType::f32, m.tokens * m.experts, 2);
  for (std::int64_t e = 0; e < m.experts; ++e)
    logits.set(e, kNan), logits.set(m.experts + e, -kInf), logits.set(2 * m.experts + e, kInf);
  logits.set(3 * m.experts + 1, kNan), logits.set(4 * m.experts, kInf), logits.set(5 * m.experts + 4, -kInf);
  const Tensor x = random.normal(m.act, m.tokens * m.hidden);
  const Tensor w = random.normal(DType::bf16, m.experts * m.hidden * m.inter, 0.1);
  const Mixed got = run(*cuda, m, true, logits, x, w, w);
  for (std::int64_t t = 0; t < m.tokens; ++t) {
    std::vector<std::int32_t> chosen(got.expert.begin() + t * m.chosen, got.expert.begin() + (t + 1) * m.chosen);
    std::ranges::sort(chosen);
    CHECK(std::ranges::adjacent_find(chosen) == chosen.end());
    CHECK((chosen.front() >= 0 && chosen.back() < m.experts));
  }
  CHECK(got.begin.back() == m.tokens * m.chosen);
  cuda->clear();
}
