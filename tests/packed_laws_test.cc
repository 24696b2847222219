// Weights that rest packed: no answer depends on it, the plan counts it, and what crosses the link is packed.
#include <algorithm>
#include <cmath>
#include <functional>

#include "kernels/base/error.h"
#include "runtime/checkpoint/model_source.h"
#include "runtime/model/geometry.h"
#include "runtime/model/weights.h"
#include "runtime/plan/step_bytes.h"
#include "tests/support/catch.h"
#include "tests/support/families.h"
#include "tests/support/mutations.h"
#include "tests/support/quantised_model.h"
#include "tests/support/sanitizer.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// The tiny model, some of it left in bf16: v and down of layer 1, so that its parts have other sizes than those of the
/// layers beside it, one matrix is made of both kinds, and another lies as it is used.
const std::filesystem::path& quantised_tiny(Quantised kind) {
  static const TempDir gptq, int8;
  static const auto keeps = [](const std::string& name) {
    return name == "model.layers.1.self_attn.v_proj.weight" || name == "model.layers.1.mlp.down_proj.weight";
  };
  static const bool written = (write_quantised(tiny_model_dir(), gptq.path(), Quantised::gptq, keeps),
                               write_quantised(tiny_model_dir(), int8.path(), Quantised::int8_rows, keeps), true);
  (void)written;
  return kind == Quantised::gptq ? gptq.path() : int8.path();
}

const std::vector<std::string> kSmall{"rows=48", "window=8", "label_dims=8"};

std::int64_t item(const std::vector<Arena::Item>& items, const std::string& name) {
  const auto found = std::ranges::find(items, name, &Arena::Item::name);
  return found == items.end() ? 0 : found->bytes;
}

}  // namespace

TEST_CASE("law 1: packed weights change no bit, wherever they are", "[packed]") {
  const Quantised kind = GENERATE(Quantised::gptq, Quantised::int8_rows);
  const DType act = GENERATE(DType::bf16, DType::f32);
  for (const auto& [policy, sets] :
       {std::pair{"dense", std::vector<std::string>{}}, {"stream", {}}, {"offload", kSmall}})
    for (std::int64_t chunk : {16, 512}) {
      RunOptions run{.model = quantised_tiny(kind),
                     .policy = policy,
                     .sets = sets,
                     .resident = 0.3,
                     .cache = 0.5,
                     .activations = act,
                     .prefill_chunk = chunk,
                     .prompts = {1, 65, 150},
                     .steps = 8,
                     .device = {.poison = true}};
      const RunResult expected = run_tiny(run);
      run.packed = true;
      for (std::int64_t streamed : {0, 1, 2, 3}) {
        run.streamed_layers = streamed;
        CAPTURE(policy, streamed, chunk, name_of(act));
        CHECK(same(run_tiny(run), expected));
      }
    }
}

TEST_CASE("law 1 for packed experts, fused matrices, biases and windows", "[packed]") {
  for (const char* family : {"mixtral", "qwen3_moe", "phi3_longrope", "qwen2_yarn", "mistral_window"}) {
    const TempDir dir;
    write_quantised(family_dir(family), dir.path(), Quantised::int8_rows);
    RunOptions run{.model = dir.path(), .policy = "stream", .prompts = {40}, .steps = 6, .device = {.poison = true}};
    const RunResult expected = run_tiny(run);
    run.packed = true;
    for (std::int64_t streamed : {0, 2}) {
      run.streamed_layers = streamed;
      CAPTURE(family, streamed);
      CHECK(same(run_tiny(run), expected));
    }
  }
}

TEST_CASE("law 6 for packed weights: each wait for streamed ones matters", "[packed]") {
  std::vector<RunOptions> runs = away_runs();
  for (RunOptions& run : runs) run.model = quantised_tiny(Quantised::gptq), run.packed = true;
  const Mutations mutations(runs, placement_delays());
  CHECK(mutations.all_right(""));
  if (kThreadSanitizer) return;
  for (const Edge& edge : {edge::kWeightsLanded, edge::kNextWeightsLanded, edge::kWeightsFree}) {
    CAPTURE(edge.name);
    CHECK(!mutations.all_right(edge.name));
  }
}

TEST_CASE("law 3a for packed weights: steps between a prefill's chunks expand other layers, and change no bit",
          "[packed]") {
  RunOptions run{.policy = "published-offload",
                 .sets = {"rows=48", "window=8", "label_dims=8", "eager_layers=[0]"},
                 .prompts = {60, 120},
                 .steps = 20};
  run.device.poison = true;
  run.model = quantised_tiny(Quantised::gptq);
  const RunResult expected = run_tiny(run);
  run.packed = true;
  for (std::int64_t streamed : {0, 1, 3})
    for (std::int64_t turn : {1, 3}) {
      run.streamed_layers = streamed;
      run.turn = turn;
      CAPTURE(streamed, turn);
      CHECK(same(run_tiny(run), expected));
    }
}

TEST_CASE("law 7: packed layers take what the plan says, byte for byte", "[packed]") {
  const Quantised kind = GENERATE(Quantised::gptq, Quantised::int8_rows);
  const ModelSource source(quantised_tiny(kind).string());
  const ModelConfig config = source.config();
  const Checkpoint weights = source.weights();
  for (std::int64_t streamed : {0, 1, 3}) {
    EngineOptions options = engine_options({.streamed_layers = streamed, .prompts = {100}});
    const MemoryPlan plain = plan_memory(config, options);
    options.formats = weight_formats(weights, config);
    CHECK(options.formats->layouts().size() == 2);                           // of layers 0 and 2, and of 1
    CHECK(plan_memory(config, options).device_bytes == plain.device_bytes);  // what may be packed is not, unless asked
    options.packed = true;
    const MemoryPlan plan = plan_memory(config, options);
    CAPTURE(streamed);
    CHECK(item(plan.device, "weights") + item(plan.host, "weights") <
          item(plain.device, "weights") + item(plain.host, "weights"));
    auto device = make_cpu_device({.budget = plan.device_bytes});
    Engine engine(*device, config, weights, options);
    Session session(0, random_prompt(100, 1), {}, 20, {});
    engine.prefill(session);
    CHECK(device->used_bytes() == plan.device_bytes);
    auto short_device = make_cpu_device({.budget = plan.device_bytes - 1});
    CHECK_THROWS_AS(Engine(*short_device, config, weights, options), OutOfMemory);

    const std::int64_t before = device->counters().h2d_bytes;
    Session* one = &session;
    engine.step({&one, 1});
    const RestBytes moved = layers_at_rest(config, options.formats.get(), config.layers - streamed, config.layers);
    const auto other = device->counters().h2d_bytes - before - moved.at_rest;
    CHECK(other >= 0);
    CHECK(other < 100 * 4 * 2 * 16 * 2 * 3);  // at most all KV rows and the step's input
    CHECK(step_bytes(config, options, 100).streamed_weights == moved.at_rest);
  }
}

TEST_CASE("what is packed is counted: at rest, expanded, over the link", "[packed]") {
  const Geometry shape = parse_geometry(
      "hidden = 256\nlayers = 4\nq_heads = 4\nkv_heads = 2\nhead_dim = 64\nintermediate = 512\nvocab = 100\n"
      "max_position = 4096\nweights = \"int4\"\n",
      "g.toml");
  const ModelConfig& c = shape.config;
  const std::int64_t norms = 2 * 256 * 2;
  // Rows of 256 inputs in groups of 128 take 128 + 8 bytes, of 512 inputs 256 + 16; both rounded up to 16.
  const std::int64_t packed = (512 + 256 + 2 * 512) * 144 + 256 * 272;
  const std::int64_t matrices = 2 * (256 * 512 + 256 * 256 + 3 * 256 * 512);
  const RestBytes all = layers_at_rest(c, shape.formats.get(), 0, 4);
  CHECK(all.at_rest == 4 * (packed + norms));
  CHECK(all.expanded_from == 4 * packed);
  CHECK(all.expanded_to == 4 * matrices);
  const RestBytes plain = layers_at_rest(c, nullptr, 0, 4);
  CHECK(plain.at_rest == 4 * (matrices + norms));
  CHECK(plain.expanded_from + plain.expanded_to == 0);

  EngineOptions options{.policy = load_policy("dense"), .max_len = 1024, .resident = 1, .streamed_layers = 3};
  options.formats = shape.formats;
  const StepBytes bf16_step = step_bytes(c, options, 1024);
  const MemoryPlan bf16_plan = plan_memory(c, options);
  options.packed = true;
  const StepBytes step = step_bytes(c, options, 1024);
  const MemoryPlan plan = plan_memory(c, options);
  CHECK(bf16_step.expansion == 0);
  CHECK(step.expansion == 4 * (packed + matrices));
  CHECK(step.weights == bf16_step.weights);
  CHECK(bf16_step.streamed_weights == 3 * (matrices + norms));
  CHECK(step.streamed_weights == 3 * (packed + norms));
  CHECK(item(plan.host, "weights") == 3 * (packed + norms));
  CHECK(item(bf16_plan.device, "weight slots") == 2 * (matrices + norms));
  CHECK(item(plan.device, "weight slots") == 2 * (packed + norms));
  CHECK(item(plan.device, "expanded weights") == matrices + 2 * 256 * 512);  // qkv twice
}

TEST_CASE("random packed weights answer alike wherever they are, in every type that geometries have", "[packed]") {
  for (const char* type : {"int4", "int8", "fp8"}) {
    const Geometry shape = parse_geometry(
        fmt::format("hidden = 64\nlayers = 3\nq_heads = 4\nkv_heads = 2\nhead_dim = 16\nintermediate = 128\n"
                    "vocab = 100\nmax_position = 512\nexperts = 4\nexperts_per_token = 2\nweights = \"{}\"\n",
                    type),
        "g.toml");
    std::vector<float> expected;
    for (std::int64_t streamed : {0, 1, 3}) {
      EngineOptions options{.policy = load_policy("dense"), .max_len = 64, .resident = 1, .streamed_layers = streamed};
      options.host_embedding = streamed > 0;
      options.packed = true;
      options.formats = shape.formats;
      auto device = make_cpu_device({.poison = true});
      Engine engine(*device, shape.config, options);
      std::vector<float> logits;
      engine.set_logits_tap(
          [&](std::int64_t rows, const float* at) { logits.assign(at, at + rows * shape.config.vocab); });
      Session session(0, random_prompt(40, 1, 100), {}, 1, {});
      engine.prefill(session);
      CAPTURE(type, streamed);
      CHECK(std::ranges::all_of(logits, [](float x) { return std::isfinite(x); }));
      if (expected.empty()) expected = logits;
      CHECK(logits == expected);
    }
    // Other weights would give others: the logits are not all alike.
    CHECK(std::ranges::adjacent_find(expected, std::not_equal_to()) != expected.end());
  }
}
