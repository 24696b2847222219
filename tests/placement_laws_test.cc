// The laws where weights, hidden states and the embedding table are in host memory.
#include <algorithm>
#include <array>
#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "offload/edges.h"
#include "offload/layout.h"
#include "runtime/engine/engine_memory.h"
#include "tests/support/catch.h"
#include "tests/support/mutations.h"
#include "tests/support/sanitizer.h"
using namespace longhaul;
using namespace longhaul::test;

namespace {

const std::vector<std::int64_t> kPrompts{1, 63, 64, 65, 150};

}  // namespace

TEST_CASE("law 1: where weights and hidden states are changes no bit") {
  const DType act = GENERATE(DType::bf16, DType::f32);
  const std::vector<std::string> small{"rows=48", "window=8", "label_dims=8"};
  for (const auto& [policy, sets] :
       {std::pair{"dense", std::vector<std::string>{}}, {"stream", {}}, {"offload", small}})
    for (std::int64_t chunk : {16, 48, 512}) {
      RunOptions run{.policy = policy,
                     .sets = sets,
                     .resident = 0.3,
                     .cache = 0.5,
                     .activations = act,
                     .prefill_chunk = chunk,
                     .prompts = kPrompts,
                     .steps = 8,
                     .device = {.poison = true}};
      const RunResult expected = run_tiny(run);
      for (std::int64_t streamed : {0, 1, 2, 3})
        for (bool spill : {false, true}) {
          run.streamed_layers = streamed;
          run.spill_hidden = spill;
          CAPTURE(policy, chunk, streamed, spill, name_of(act));
          CHECK(same(run_tiny(run), expected));
        }
    }
}

TEST_CASE("law 6 for streamed weights and spilled hidden states") {
  std::vector<RunOptions> runs = away_runs();
  // Steps between the chunks of another session's prefill take the slots of its weights.
  runs.push_back({.model = deep_model_dir(),
                  .streamed_layers = 6,
                  .activations = DType::f32,
                  .prompts = {60, 120},
                  .steps = 20,
                  .turn = 1,
                  .device = {.poison = true}});
  const Mutations mutations(runs, placement_delays());
  CHECK(mutations.all_right(""));
  if (kThreadSanitizer) return;
  for (const Edge& edge : kPlacementEdges) {
    CAPTURE(edge.name);
    CHECK(!mutations.all_right(edge.name));
  }
}

TEST_CASE("streamed weights cross the link once a walk, spilled hidden states once a layer") {
  const ModelConfig config = load_model_config(tiny_model_dir());
  auto crossed = [&](std::int64_t streamed, bool spill, std::int64_t chunk) {
    auto device = make_cpu_device();
    Engine engine(*device, config, Safetensors::open_model(tiny_model_dir()),
                  engine_options({.policy = "dense",
                                  .streamed_layers = streamed,
                                  .spill_hidden = spill,
                                  .prefill_chunk = chunk,
                                  .prompts = {200}}));
    Session first(0, random_prompt(200, 2), {}, 11, {}), session(0, random_prompt(200, 1), {}, 11, {});
    engine.prefill(first);  // the rope table has come, too
    const std::int64_t loaded = device->counters().h2d_bytes;
    engine.prefill(session);
    const std::int64_t prefilled = device->counters().h2d_bytes;
    Session* one = &session;
    engine.step({&one, 1});
    return std::pair(prefilled - loaded, device->counters().h2d_bytes - prefilled);
  };
  for (std::int64_t chunk : {32, 512}) {
    const auto plain = crossed(0, false, chunk);
    for (std::int64_t streamed : {1, 3})
      for (bool spill : {false, true}) {
        const auto moved = crossed(streamed, spill, chunk);
        // A tiny tensor is a quarter of the arena's alignment.
        const std::int64_t layer = round_up(layer_weight_bytes(config), Arena::kAlign);
        CAPTURE(chunk, streamed, spill);
        const std::int64_t weights = moved.second - plain.second;
        CHECK(weights >= streamed * layer_weight_bytes(config));
        CHECK(weights <= streamed * (layer + 2 * Arena::kAlign));
        const std::int64_t states = spill ? (config.layers - 1) * 200 * config.hidden * 2 : 0;
        CHECK(moved.first - plain.first == weights + states);
      }
  }
}
