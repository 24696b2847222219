// route, expert_linear and mix against the definitions: a token's output is the sum of its experts' by their weights.
#include <algorithm>
#include <numeric>

#include "kernels/cpu/ops.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/isa.h"
#include "tests/support/random.h"
#include "tests/support/reference.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// Memory of routes, poisoned.
struct RouteMemory {
  std::int64_t tokens, experts, chosen;
  std::vector<std::int32_t> expert = ints(tokens * chosen), place = ints(tokens * chosen),
                            token = ints(tokens * chosen), begin = ints(experts + 1);
  std::vector<float> weight = std::vector<float>(static_cast<std::size_t>(tokens * chosen), -7);
  static std::vector<std::int32_t> ints(std::int64_t n) {
    return std::vector<std::int32_t>(static_cast<std::size_t>(n), -7);
  }
  Routes view() { return {expert.data(), weight.data(), place.data(), token.data(), begin.data(), experts, chosen}; }
};

/// The experts of a token by its logits, the greatest first, of equals the lower number.
std::vector<std::int32_t> ranking(const float* logits, std::int64_t experts) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(experts));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](auto a, auto b) { return logits[a] > logits[b]; });
  return order;
}

}  // namespace

TEST_CASE("route: the best experts, their weights, and places grouped by expert") {
  Random random(30);
  for (auto [tokens, experts, chosen] : {std::array<std::int64_t, 3>{1, 4, 2}, {17, 4, 2}, {130, 60, 8}, {5, 3, 3}})
    for (bool normalised : {false, true}) {
      CAPTURE(tokens, experts, chosen, normalised);
      Tensor logits = random.normal(DType::f32, tokens * experts, 2);
      for (std::int64_t e = 0; e < experts; ++e) logits.set(e, 1);  // equals
      RouteMemory r{tokens, experts, chosen};
      cpu::route({logits.floats(), r.view(), normalised, tokens});
      std::vector<std::int64_t> counts(static_cast<std::size_t>(experts));
      for (std::int64_t t = 0; t < tokens; ++t) {
        const float* own = logits.floats() + t * experts;
        const auto order = ranking(own, experts);
        double all = 0, taken = 0;
        for (std::int64_t e = 0; e < experts; ++e) all += std::exp(own[e]);
        for (std::int64_t i = 0; i < chosen; ++i) taken += std::exp(own[order[i]]);
        for (std::int64_t i = 0; i < chosen; ++i) {
          REQUIRE(r.expert[t * chosen + i] == order[i]);
          CHECK(r.weight[t * chosen + i] == Approx(std::exp(own[order[i]]) / (normalised ? taken : all)).epsilon(1e-5));
          ++counts[order[i]];
        }
      }
      CHECK(r.begin[0] == 0);
      for (std::int64_t e = 0; e < experts; ++e) REQUIRE(r.begin[e + 1] - r.begin[e] == counts[e]);
      for (std::int64_t i = 0; i < tokens * chosen; ++i) {
        const std::int64_t p = r.place[i], e = r.expert[i];
        REQUIRE((p >= r.begin[e] && p < r.begin[e + 1]));
        REQUIRE(r.token[p] == i / chosen);
        if (p > r.begin[e]) REQUIRE(r.token[p - 1] < r.token[p]);
      }
    }
}

TEST_CASE("route: logits that are not finite still give each token different experts") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  std::vector<float> logits{nan, nan, nan, nan, inf, 0, inf, -inf, -inf, -inf, -inf, -inf};
  RouteMemory r{3, 4, 3};
  cpu::route({logits.data(), r.view(), true, 3});
  for (std::int64_t t = 0; t < 3; ++t) {
    std::vector<std::int32_t> own(r.expert.begin() + t * 3, r.expert.begin() + t * 3 + 3);
    std::ranges::sort(own);
    CHECK((own[0] >= 0 && own[2] < 4 && own[0] < own[1] && own[1] < own[2]));
  }
}

TEST_CASE("expert_linear and mix: each row by the weights of its expert, and a token's rows added up") {
  Random random(31);
  const std::int64_t in = 72, out_dim = 40;
  for (auto [tokens, experts, chosen] : {std::array<std::int64_t, 3>{1, 4, 2}, {40, 5, 2}, {300, 3, 2}})
    for (DType act : {DType::bf16, DType::f32})
      for_each_isa([&] {
        CAPTURE(tokens, experts, chosen, name_of(act));
        Tensor logits = random.normal(DType::f32, tokens * experts);
        RouteMemory r{tokens, experts, chosen};
        cpu::route({logits.floats(), r.view(), true, tokens});
        Tensor x = random.normal(act, tokens * in), w = random.normal(DType::bf16, experts * out_dim * in, 0.1);
        Tensor rows(act, tokens * chosen * out_dim), by_place(act, tokens * chosen * in);
        cpu::expert_linear({x.data(), true, w.halves(), rows.data(), r.view(), act, tokens, in, out_dim});
        for (std::int64_t p = 0; p < tokens * chosen; ++p)
          std::memcpy(by_place.at(p * in), x.at(r.token[p] * in), in * size_of(act));
        Tensor again(act, tokens * chosen * out_dim);
        cpu::expert_linear({by_place.data(), false, w.halves(), again.data(), r.view(), act, tokens, in, out_dim});
        CHECK(again.bytes == rows.bytes);
        Tensor out = random.normal(act, tokens * out_dim);
        Doubles want = out.values();
        const Doubles all = reference_linear(x.values(), w.values(), in);  // [tokens, experts, out_dim]
        for (std::int64_t i = 0; i < tokens * chosen; ++i)
          for (std::int64_t o = 0; o < out_dim; ++o)
            want[i / chosen * out_dim + o] += r.weight[i] * all[(i / chosen * experts + r.expert[i]) * out_dim + o];
        cpu::mix({rows.data(), out.data(), r.view(), act, tokens, out_dim});
        const double limit = act == DType::bf16 ? 1e-5 : 1e-12;
        INFO(first_bad(out.values(), want, out_dim, 100 * std::sqrt(limit)));
        CHECK(nmse(out.values(), want) <= limit);
        // Law 10: a token alone has the same bits.
        if (tokens > kDecodeTokens) return;
        for (std::int64_t t = 0; t < tokens; ++t) {
          RouteMemory one{1, experts, chosen};
          cpu::route({logits.floats() + t * experts, one.view(), true, 1});
          Tensor own(act, chosen * out_dim);
          cpu::expert_linear({x.at(t * in), true, w.halves(), own.data(), one.view(), act, 1, in, out_dim});
          for (std::int64_t i = 0; i < chosen; ++i)
            REQUIRE(std::memcmp(own.at(one.place[i] * out_dim), rows.at(r.place[t * chosen + i] * out_dim),
                                out_dim * size_of(act)) == 0);
        }
      });
}
