// Sessions that take of the host store what they may need themselves: more of them at a time, and the same bits.
#include <algorithm>
#include <functional>
#include <numeric>

#include "kernels/base/bytes.h"
#include "offload/row_regions.h"
#include "runtime/engine/engine_memory.h"
#include "tests/support/catch.h"
#include "tests/support/mutations.h"
#include "tests/support/random.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

using Lengths = std::vector<std::int64_t>;

std::shared_ptr<const Lengths> sorted(Lengths lengths) {
  std::ranges::sort(lengths, std::greater{});
  return std::make_shared<const Lengths>(std::move(lengths));
}

/// Answers prompts of these lengths in turn, each as soon as there are a slot and room for it, on three slots. `most`:
/// sets to the number that were there together.
std::vector<std::vector<std::int32_t>> answer(const RunOptions& o, std::int64_t store_rows, std::size_t* most) {
  EngineOptions options = engine_options(o);
  options.max_sessions = 3;
  Lengths needs;
  for (const std::int64_t prompt : o.prompts) needs.push_back(prompt + o.steps + 1);
  if (store_rows > 0) options.lengths = sorted(needs), options.store_rows = store_rows;
  auto device = make_cpu_device(o.device);
  const auto& dir = tiny_model_dir(o.kv_dtype);
  Engine engine(*device, load_model_config(dir), Safetensors::open_model(dir), options);
  std::vector<std::int64_t> slots{2, 0, 1};
  std::vector<Session> sessions;
  for (std::size_t i = 0; i < needs.size(); ++i)
    sessions.emplace_back(0, random_prompt(o.prompts[i], i), SampleParams{}, o.steps + 1, std::vector<std::int32_t>{});
  std::vector<Session*> active;
  *most = 0;
  for (std::size_t next = 0; next < needs.size() || !active.empty();) {
    while (next < needs.size() && !slots.empty() && engine.has_room({&needs[next], 1})) {
      const std::int64_t steps = o.steps + 1 - static_cast<std::int64_t>(next % 3) * 20;  // so that they end apart
      sessions[next] = Session(slots.back(), random_prompt(o.prompts[next], next), SampleParams{}, steps, {});
      slots.pop_back();
      engine.prefill(sessions[next]);
      active.push_back(&sessions[next++]);
      *most = std::max(*most, active.size());
    }
    REQUIRE(!active.empty());
    engine.step(active);
    std::erase_if(active, [&](Session* session) {
      if (!session->done()) return false;
      slots.push_back(session->slot());
      engine.release(*session);
      return true;
    });
  }
  std::vector<std::vector<std::int32_t>> tokens;
  for (const Session& session : sessions) tokens.push_back(session.tokens());
  return tokens;
}

}  // namespace

TEST_CASE("regions of the host store: the first that is free, or none where there is none") {
  Random random(5);
  constexpr std::int64_t kPlaces = 200;
  RowRegions regions(kPlaces);
  std::vector<int> taken(kPlaces, 0);
  std::vector<std::pair<std::int64_t, std::int64_t>> held;
  auto first_free = [&](std::int64_t rows) -> std::optional<std::int64_t> {
    for (std::int64_t at = 0; at + rows <= kPlaces; ++at)
      if (std::count(taken.begin() + at, taken.begin() + at + rows, 1) == 0) return at;
    return {};
  };
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    if (!held.empty() && random.integer(0, 2) == 0) {
      const auto at = held.begin() + random.integer(0, std::ssize(held) - 1);
      std::fill_n(taken.begin() + at->first, at->second, 0);
      regions.give_back(at->first, at->second);
      held.erase(at);
      continue;
    }
    const std::int64_t rows = random.integer(0, 60);
    const auto want = first_free(rows);
    REQUIRE(regions.has_room({&rows, 1}) == want.has_value());
    const auto got = regions.take(rows);
    REQUIRE(got == want);
    refused += !got;
    if (!got || rows == 0) continue;
    std::fill_n(taken.begin() + *got, rows, 1);
    held.emplace_back(*got, rows);
  }
  CHECK(refused > 100);
  CHECK(RowRegions(100).has_room(Lengths{60, 40}));
  CHECK_FALSE(RowRegions(100).has_room(Lengths{60, 41}));
}

TEST_CASE("sessions with room of their own length have the bits that they have with the longest's") {
  const std::vector<std::string> small{"rows=48", "window=8", "label_dims=8"};
  for (RunOptions run : {RunOptions{.policy = "stream"}, RunOptions{.policy = "stream", .resident = 0.3},
                         RunOptions{.policy = "stream", .kv_dtype = RowType::int8},
                         RunOptions{.policy = "offload", .sets = small, .cache = 0.5},
                         away({.policy = "offload", .sets = small, .kv_dtype = RowType::fp8})}) {
    run.prompts = {400, 30, 90, 150, 64, 200, 1, 390};
    run.steps = 90;
    run.device.poison = true;
    std::size_t all = 0, some = 0;
    const auto expected = answer(run, 0, &all);
    CHECK(all == 3);
    for (const std::int64_t rows : {1, 700, 1 << 20}) {  // the longest's, some, the longest three's
      CAPTURE(run.policy, rows);
      CHECK(answer(run, rows, &some) == expected);
      CHECK(some <= 3);
      CHECK(some >= 2);
    }
    run.device.delays = {{.stream = "", .microseconds = 100, .random = true}};
    CHECK(answer(run, 700, &some) == expected);
  }
}

TEST_CASE("twenty short documents decode together where two long ones would") {
  const ModelConfig config = load_model_config(tiny_model_dir());
  RunOptions run{.policy = "stream", .prompts = {4000}, .steps = 95};
  EngineOptions options = engine_options(run);
  options.policy.resident = 0.0;
  options.max_sessions = 2;
  const MemoryPlan two = plan_memory(config, options);
  const Budget budget{std::int64_t{1} << 40, two.host_bytes + 4096};  // a little for what a slot takes beside rows
  options.max_sessions = 20;
  const EngineOptions equal = fit_to_budget(config, options, budget);
  CHECK(equal.max_sessions == 2);

  Lengths lengths(40, 250);
  lengths.front() = options.max_len;
  options.lengths = sorted(lengths);
  const EngineOptions own = fit_to_budget(config, options, budget);
  CHECK(own.max_sessions == 20);
  CHECK(plan_memory(config, own).host_bytes <= budget.host);
  const Together fit = together(config, own);
  CHECK(fit.shortest == 20);
  CHECK(fit.longest < 20);
  CHECK(fit.longest > 10);  // the longest beside short ones

  // Law 7: the plan is the use; and the store has the rows that it says.
  auto device = make_cpu_device();
  Engine engine(*device, config, Safetensors::open_model(tiny_model_dir()), own);
  const KvLayout layout = kv_layout(config, own);
  const auto& items = engine.plan().host;
  const auto store = std::ranges::find(items, "kv host store", &Arena::Item::name);
  REQUIRE(store != items.end());
  CHECK(store->bytes == layout.store_rows * config.layers * config.kv_heads * kv_shape(config, own).row_bytes());
  CHECK(engine.has_room({&options.max_len, 1}));
  CHECK(engine.has_room(Lengths(static_cast<std::size_t>(fit.shortest), 250)));

  // As many long ones as without, and no more host memory than they need.
  options.lengths = sorted(Lengths(20, options.max_len));
  CHECK(fit_to_budget(config, options, budget).max_sessions == 2);
  options.lengths = sorted(Lengths(20, 300));
  options.max_sessions = 3;
  const KvLayout ample = kv_layout(config, options);
  CHECK(ample.store_rows == std::max(3 * round_up(300, 64), ample.capacity));
}
