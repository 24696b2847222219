// Look-ahead by measured steps (look_ahead = "auto"): what is chosen from what steps took.
#include "runtime/engine/look_ahead_choice.h"

#include "tests/support/catch.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// `steps` steps of `sessions` sessions, which take so long with and without look-ahead; how many looked ahead.
std::int64_t steps_ahead(LookAheadChoice& choice, std::int64_t sessions, std::int64_t steps, double with,
                         double without) {
  std::int64_t ahead = 0;
  bool last = false;
  for (std::int64_t i = 0, run = 0; i < steps; ++i) {
    const bool looks = choice.looks_ahead(sessions);
    ahead += looks;
    // After a change the first steps are slow, for they are recorded; now and then something else runs; and all steps
    // become faster, for the resident set fills.
    run = i > 0 && looks == last ? run + 1 : 0, last = looks;
    const double slow = run < LookAheadChoice::kUncounted || i % 11 == 5 ? 50 : 1,
                 cold = 1 + 0.1 / static_cast<double>(i + 1);
    choice.took(sessions, (looks ? with : without) * slow * cold);
  }
  return ahead;
}

}  // namespace

TEST_CASE("look-ahead is tried, and the faster way taken, for each number of sessions") {
  LookAheadChoice choice(true);
  REQUIRE(choice.steps_to_settle(1) == LookAheadChoice::kTrial);
  CHECK(steps_ahead(choice, 1, LookAheadChoice::kTrial, 1.05, 1.0) == 12);
  CHECK(choice.steps_to_settle(1) == 0);
  CHECK(!choice.looks_ahead(1));
  CHECK(choice.is_tried(4));
  CHECK(steps_ahead(choice, 4, LookAheadChoice::kTrial, 1.0, 1.05) == 12);
  CHECK(choice.looks_ahead(4));
  CHECK(steps_ahead(choice, 1, 100, 2.0, 1.0) == 0);
  CHECK(steps_ahead(choice, 4, 100, 1.0, 2.0) == 100);
}

TEST_CASE("look-ahead is tried again after a while, and what is faster by then is taken") {
  LookAheadChoice choice(true);
  steps_ahead(choice, 2, LookAheadChoice::kPeriod, 2.0, 1.0);
  REQUIRE(choice.is_tried(2));
  CHECK(!choice.looks_ahead(2));  // what was best comes first
  CHECK(steps_ahead(choice, 2, LookAheadChoice::kTrial, 1.0, 2.0) == 9);
  CHECK(choice.looks_ahead(2));
}

TEST_CASE("look-ahead that is not left to measurement is never given up") {
  LookAheadChoice choice(false);
  CHECK(choice.steps_to_settle(1) == 0);
  CHECK(steps_ahead(choice, 1, 100, 2.0, 1.0) == 100);
}

TEST_CASE("law 3: steps that look ahead, steps that do not, and trials of both give the same tokens") {
  RunOptions run{.policy = "offload",
                 .sets = {"rows=48", "window=8", "label_dims=8"},
                 .cache = 0.5,
                 .activations = DType::f32,
                 .prompts = {300, 170},
                 .steps = LookAheadChoice::kTrial + 8,
                 .device = {.poison = true}};
  REQUIRE(load_policy(run.policy, {}).look_ahead == LookAhead::measured);
  RunOptions ahead = run, never = run;
  ahead.sets.push_back("look_ahead=hidden");
  never.policy = "on-demand";
  {
    auto device = make_cpu_device(run.device);
    const ModelConfig config = load_model_config(tiny_model_dir());
    const Engine engine(*device, config, Safetensors::open_model(tiny_model_dir()), engine_options(run));
    REQUIRE(engine.steps_to_settle(2) == LookAheadChoice::kTrial);  // so that a run goes both ways
  }
  const RunResult tried = run_tiny(run);
  CHECK(same(run_tiny(ahead), tried));
  CHECK(same(run_tiny(never), tried));
}
