// A trace becomes the rows that a synthetic run replays.
#include "runtime/engine/replay.h"

#include "kernels/base/error.h"
#include "runtime/engine/trace.h"
#include "tests/support/catch.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

TEST_CASE("a replay has the rows that the trace's first session selected") {
  const TempDir dir;
  const std::string file = (dir.path() / "trace").string();
  RunOptions run{.policy = "offload", .sets = {"rows=48"}, .cache = 1, .prompts = {90, 200}};
  run.probes.lists = true;
  auto device = make_cpu_device();
  Engine engine(*device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()),
                engine_options(run));
  Session a(0, random_prompt(90, 1), {}, 30, {}), b(1, random_prompt(200, 2), {}, 30, {});
  engine.prefill(a);
  engine.prefill(b);
  std::vector<std::vector<std::int32_t>> expected;
  {
    TraceWriter writer(file, "tiny", engine);
    engine.set_step_tap([&](const StepProbe& probe, std::span<Session* const> sessions) {
      writer.add(probe, sessions);
      for (std::int64_t i = 0; i < probe.layers * probe.kv_heads; ++i)
        expected.emplace_back(probe.rows + i * probe.stride, probe.rows + i * probe.stride + probe.counts[i]);
    });
    Session* both[] = {&a, &b};
    for (int i = 0; i < 5; ++i) engine.step(both);
    writer.finish();
  }
  const auto replay = load_replay(file, 3, 48, 0.75);
  CHECK(replay->steps == 3);
  CHECK(replay->recall == 0.75f);
  CHECK(replay->stride == 48);
  REQUIRE(replay->counts.size() == static_cast<std::size_t>(3 * replay->layers * replay->heads));
  for (std::size_t i = 0; i < replay->counts.size(); ++i) {
    const auto* from = replay->rows.data() + i * 48;
    CHECK(std::vector<std::int32_t>(from, from + replay->counts[i]) == expected[i]);
  }
  CHECK(load_replay(file, 100, 48, 1)->steps == 5);
  CHECK_THROWS_WITH(load_replay(file, 3, 64, 1), contains("selected up to 48 rows, and the policy selects 64"));
  CHECK_FALSE(no_reuse(1)->recorded());
}

TEST_CASE("a deeper model replays the recorded layers in turn, the first two for themselves") {
  const Replay replay{.steps = 1, .layers = 5, .heads = 2, .stride = 1};
  std::vector<std::int64_t> layers;
  for (std::int64_t l = 0; l < 12; ++l) layers.push_back(replay.layer_for(l));
  CHECK(layers == std::vector<std::int64_t>{0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 2});
}
