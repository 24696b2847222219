// Prompts that begin alike, prefilled together: the same bits as each alone, wherever rows live and whatever is
// attended, for the work of one.
#include <algorithm>
#include <array>

#include "kernels/cpu/cpu_device.h"
#include "paths.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/prefill_walk.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/sanitizer.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// Prompts of `shared` tokens that are alike, and some of their own.
std::vector<std::vector<std::int32_t>> prompts_of(std::int64_t shared, const std::vector<std::int64_t>& own) {
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::size_t i = 0; i < own.size(); ++i) {
    prompts.push_back(random_prompt(shared, 1));
    const auto rest = random_prompt(own[i], 10 + i);
    prompts.back().insert(prompts.back().end(), rest.begin(), rest.end());
    prompts.back()[static_cast<std::size_t>(shared)] = static_cast<std::int32_t>(i);  // here they part
  }
  return prompts;
}

RunResult run(RunOptions o, const std::vector<std::vector<std::int32_t>>& prompts, bool together,
              RowCounts* counts = nullptr, std::int64_t share_unit = 0) {
  std::int64_t rest = 0;
  o.prompts.clear();
  for (const auto& prompt : prompts) {
    o.prompts.push_back(std::ssize(prompt));
    rest += std::ssize(prompt);
  }
  EngineOptions options = engine_options(o);
  options.shared_rest = together ? rest : 0;
  options.share_unit = share_unit;
  auto device = make_cpu_device(o.device);
  Engine engine(*device, model_config(o), Safetensors::open_model(model_dir(o)), options);
  std::vector<Session> sessions;
  std::vector<Session*> all;
  // Not in the order of their slots.
  for (std::size_t i = 0; i < prompts.size(); ++i)
    sessions.emplace_back((static_cast<std::int64_t>(i) + 1) % std::ssize(prompts), prompts[i], SampleParams{},
                          o.steps + 1, std::vector<std::int32_t>{});
  for (Session& session : sessions) all.push_back(&session);
  if (together) {
    const std::int64_t unit = share_unit > 0 ? share_unit : o.prefill_chunk;
    CHECK(engine.shared_rows(all) == common_tokens(all) / unit * unit);
    engine.prefill(all);
  } else {
    CHECK(engine.shared_rows(all) == 0);
    for (Session* session : all) engine.prefill(*session);
  }
  RunResult result;
  result.logits.emplace_back();
  engine.set_logits_tap([&](std::int64_t rows, const float* logits) {
    result.logits[0].insert(result.logits[0].end(), logits, logits + rows * engine.config().vocab);
  });
  for (std::int64_t i = 0; i < o.steps; ++i) engine.step(all);
  for (const Session& session : sessions) result.tokens.push_back(session.tokens());
  if (counts != nullptr) *counts = engine.row_counts();
  return result;
}

const std::filesystem::path kFamilies = LONGHAUL_SOURCE_DIR "/tests/data/families";
const std::vector<std::string> kSmall{"min_rows=16", "label_dims=8", "sinks=2", "window=8"};

}  // namespace

TEST_CASE("prompts that begin alike are prefilled together to the same bits") {
  const auto prompts = prompts_of(150, {30, 7, 101, 1});
  const std::vector<RunOptions> all{{.policy = "dense"},
                                    {.policy = "dense", .kv_dtype = RowType::int8},
                                    {.policy = "stream"},
                                    {.policy = "stream", .resident = 0.4, .spill_hidden = true},
                                    {.policy = "stream", .streamed_layers = 2, .kv_dtype = RowType::fp8},
                                    {.policy = "sparse-resident", .sets = kSmall},
                                    {.policy = "offload", .sets = kSmall, .cache = 1},
                                    {.policy = "offload", .sets = kSmall, .cache = 1, .spill_hidden = true},
                                    {.policy = "offload", .sets = kSmall, .cache = 1, .layers_held = 2},
                                    {.model = kFamilies / "qwen2_window", .policy = "stream"},
                                    {.model = kFamilies / "qwen2_window", .policy = "offload", .sets = kSmall},
                                    {.model = kFamilies / "mixtral", .policy = "offload", .sets = kSmall}};
  for (std::size_t i = 0; i < all.size(); ++i) {
    RunOptions o = all[i];
    o.steps = 20;
    o.device.poison = true;
    CAPTURE(i);
    const RunResult alone = run(o, prompts, false);
    CHECK(same(run(o, prompts, true), alone));
    for (const char* slow : {"store", "compute", "fetch", "labels"}) {
      o.device.delays = {{.stream = slow, .microseconds = 300, .random = true}};
      CHECK(same(run(o, prompts, true), alone));
    }
  }
}

TEST_CASE("prompts may share units smaller than a chunk, and then are the same to rounding") {
  const auto prompts = prompts_of(150, {30, 7, 101, 1});
  for (const char* policy : {"dense", "stream", "offload"}) {
    RunOptions o{.policy = policy, .activations = DType::f32, .prefill_chunk = 128, .steps = 8};
    if (o.policy == "offload") o.sets = kSmall, o.cache = 1;
    o.device.poison = true;
    const RunResult alone = run(o, prompts, false), shared = run(o, prompts, true, nullptr, 16);
    const std::vector<double> got(shared.logits[0].begin(), shared.logits[0].end()),
        want(alone.logits[0].begin(), alone.logits[0].end());
    CHECK(nmse(got, want) < 1e-9);
    CHECK(shared.tokens == alone.tokens);
  }
}

TEST_CASE("prompts longer than the queries that labels are fitted to, too") {
  const RunOptions o{.policy = "offload", .sets = kSmall, .cache = 1, .prefill_chunk = 512, .steps = 8};
  for (const std::int64_t shared : {1100, 2600}) {
    const auto prompts = prompts_of(shared, {30, 1000});
    CHECK(same(run(o, prompts, true), run(o, prompts, false)));
  }
}

TEST_CASE("prompts on both sides of a chunk's border, too, where their temperature is the same") {
  RunOptions o{.policy = "offload", .sets = kSmall, .cache = 1, .dual_chunks = {.rows = 256, .reach = 320}};
  o.steps = 12;
  for (const char* policy : {"offload", "stream"})
    for (const std::int64_t shared : {240, 480, 768}) {
      const auto prompts = prompts_of(shared, {5, 40, 1, 300});  // of the last queries some are shared ones
      o.policy = policy;
      if (o.policy == "stream") o.sets = {};
      RowCounts together, alone;
      CHECK(same(run(o, prompts, true, &together), run(o, prompts, false, &alone)));
      CHECK(together.cache_hits == alone.cache_hits);  // of the resident set that the last queries have chosen
    }
  // Keys of other temperatures are others.
  o.dual_chunks.trained = 300;
  o.prompts = {290, 400};
  EngineOptions options = engine_options(o);
  options.shared_rest = 1000;
  auto device = make_cpu_device();
  Engine engine(*device, model_config(o), Safetensors::open_model(model_dir(o)), options);
  const auto prompts = prompts_of(240, {50, 160, 55});
  Session a(0, prompts[0], {}, 9, {}), b(1, prompts[1], {}, 9, {}), c(0, prompts[2], {}, 9, {});
  CHECK(engine.shared_rows(std::array{&a, &b}) == 0);
  CHECK(engine.shared_rows(std::array{&a, &c}) == 240);
}

TEST_CASE("a prompt takes the places of another's rows only after they have left") {
  if (kThreadSanitizer) return;
  const auto prompts = prompts_of(150, {90, 80, 101});
  RunOptions o{.policy = "stream", .steps = 4};
  const RunResult alone = run(o, prompts, false);
  o.device.delays = {{.stream = "store", .microseconds = 2000}};
  CHECK(same(run(o, prompts, true), alone));
  o.device.drop_wait = "layer_free";
  CHECK_FALSE(same(run(o, prompts, true), alone));
}

TEST_CASE("five questions to one document take the work of one prefill") {
  const auto prompts = prompts_of(64 * 512, {40, 50, 30, 20, 60});
  const ModelConfig config = load_model_config(tiny_model_dir());
  std::vector<Session> sessions;
  std::vector<Session*> all;
  for (std::size_t i = 0; i < prompts.size(); ++i)
    sessions.emplace_back(static_cast<std::int64_t>(i), prompts[i], SampleParams{}, 1, std::vector<std::int32_t>{});
  for (Session& session : sessions) all.push_back(&session);
  const PrefillWalk one = plan_walk(config, std::array{all[0]}, 0, 512);
  const PrefillWalk five = plan_walk(config, all, common_tokens(all) / 512 * 512, 512);
  CHECK(five.work < 1.05 * one.work);
  CHECK(five.rows == 64 * 512 + 200);
  CHECK(one.rows == std::ssize(prompts[0]));
}
