// Look-ahead changes no token, so laws cannot tell a hint that is right from one that is not: here is what it finds.
#include "paths.h"
#include "tests/support/catch.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// Of the rows that are not on the device, the share that has been prefetched: demo-7m, two sessions in slots that
/// others lie between, `steps` steps.
double foretold(bool noise, std::int64_t steps) {
  RunOptions run{.model = LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m",
                 .policy = "offload",
                 .sets = {"share=1/8", "min_rows=64", "window=16", "look_ahead=hidden"},
                 .probes = {.noise = noise},
                 .prompts = {700, 500},
                 .steps = steps,
                 .scattered = true,
                 .device = {.poison = true}};
  const ModelConfig config = load_model_config(run.model);
  auto device = make_cpu_device(run.device);
  Engine engine(*device, config, Safetensors::open_model(run.model), engine_options(run));
  std::vector<Session> sessions;
  std::vector<Session*> batch;
  for (std::size_t i = 0; i < run.prompts.size(); ++i)
    sessions.emplace_back(static_cast<std::int64_t>(2 - 2 * i), random_prompt(run.prompts[i], i), SampleParams{},
                          steps + 1, std::vector<std::int32_t>{});
  for (Session& session : sessions) {
    engine.prefill(session);
    batch.push_back(&session);
  }
  for (std::int64_t i = 0; i < steps; ++i) engine.step(batch);
  const RowCounts counts = engine.row_counts();
  REQUIRE(counts.cache_hits == 0);
  REQUIRE(counts.missed > 0);
  return static_cast<double>(counts.staged_hits) / static_cast<double>(counts.staged_hits + counts.missed);
}

}  // namespace

TEST_CASE("look-ahead finds most rows from the first step on, in every session") {
  for (std::int64_t steps : {1, 6}) {
    const double found = foretold(false, steps), by_chance = foretold(true, steps);
    CAPTURE(steps, found, by_chance);
    CHECK(found > 0.4);
    CHECK(found > by_chance + 0.2);
  }
}
