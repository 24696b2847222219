// Decoding while another prompt is prefilled: steps between the chunks of a prefill change no bit, neither of what
// steps nor of what is prefilled.
#include "runtime/batch/turns.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "tests/support/catch.h"
#include "tests/support/families.h"
#include "tests/support/mutations.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

const std::vector<std::string> kSmall{"rows=48", "window=8", "label_dims=8"};

RunOptions sparse(const std::string& policy, double cache, std::int64_t layers_held = 1) {
  return {.policy = policy, .sets = kSmall, .cache = cache, .activations = DType::f32, .layers_held = layers_held};
}

/// What a model, a policy and a placement add to a prefill under way.
const std::vector<RunOptions>& runs() {
  static const std::vector<RunOptions> all{
      {.policy = "dense"},
      {.policy = "dense", .kv_dtype = RowType::int8},
      {.policy = "stream"},
      {.policy = "stream", .resident = 0.4, .spill_hidden = true},
      {.policy = "stream", .streamed_layers = 2, .kv_dtype = RowType::fp8},
      {.policy = "stream", .streamed_layers = 3, .spill_hidden = true},
      {.policy = "stream", .streamed_layers = 1},
      {.model = deep_model_dir(), .policy = "stream", .streamed_layers = 4},
      {.model = deep_model_dir(), .policy = "offload", .sets = kSmall, .cache = 1, .streamed_layers = 6},
      sparse("sparse-resident", 0),
      sparse("offload", 1),
      away(sparse("offload", 0.5)),
      sparse("published-offload", 0),
      sparse("on-demand", 1),
      sparse("sparse-resident", 0, 2),
      away(sparse("offload", 0.5, 2)),
      {.policy = "streaming-llm", .sets = {"rows=48"}},
      {.policy = "h2o", .sets = {"rows=48"}},
      {.model = family_dir("qwen2_window"), .policy = "stream"},
      {.model = family_dir("mistral_window"), .policy = "offload", .sets = kSmall},
      {.model = family_dir("mixtral"), .policy = "offload", .sets = kSmall, .cache = 1},
      {.model = family_dir("smollm3"), .policy = "stream", .resident = 0.3, .streamed_layers = 2},
  };
  return all;
}

}  // namespace

TEST_CASE("steps between the chunks of a prefill change no bit") {
  const auto at = GENERATE(range(std::size_t{0}, runs().size()));
  RunOptions run = runs()[at];
  run.prompts = {70, 150, 1, 200};
  run.steps = 40;
  run.device.poison = true;
  CAPTURE(at, run.policy);
  const RunResult expected = run_tiny(run);
  for (const double turn : {1.0, 1e6, 4e6}) {  // a chunk, some, about a layer
    run.turn = turn;
    CAPTURE(turn);
    CHECK(same(run_tiny(run), expected));
  }
  run.turn = 1;
  run.scattered = true;
  for (const char* slow : {"compute", "labels", "fetch", "store", "weights"}) {
    run.device.delays = {{.stream = slow, .microseconds = 300, .random = true}};
    CAPTURE(slow);
    CHECK(same(run_tiny(run), expected));
  }
}

TEST_CASE("steps between the chunks of a prefill where a prompt's length chooses its rope") {
  const std::string name = GENERATE("phi3_longrope", "llama_dynamic");
  RunOptions run{.model = family_dir(name), .policy = "stream"};
  run.prompts = {90, 20, 150};
  run.steps = 30;
  run.device.poison = true;
  const RunResult expected = run_tiny(run);
  run.turn = 1;
  CHECK(same(run_tiny(run), expected));
}

TEST_CASE("prompts that begin alike are prefilled together in pieces") {
  const auto prompt = [](std::int64_t own) {
    std::vector<std::int32_t> ids = random_prompt(150, 1);
    const auto rest = random_prompt(own, static_cast<std::uint64_t>(own));
    ids.insert(ids.end(), rest.begin(), rest.end());
    ids[150] = static_cast<std::int32_t>(own % 64);
    return ids;
  };
  for (RunOptions run : {RunOptions{.policy = "stream"}, sparse("offload", 1), away(sparse("offload", 1))}) {
    run.prompts = {300, 300, 300};
    EngineOptions options = engine_options(run);
    options.shared_rest = 400;
    std::vector<std::vector<std::int32_t>> expected;
    for (const double turn : {0.0, 1.0, 1e6}) {
      auto device = make_cpu_device({.poison = true});
      Engine engine(*device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()), options);
      Session first(2, random_prompt(100, 9), {}, 60, {}), a(0, prompt(30), {}, 20, {}), b(1, prompt(101), {}, 20, {});
      std::array<Session*, 2> both{&a, &b};
      auto step = [&](auto&&... sessions) {
        std::vector<Session*> which;
        for (Session* s : {sessions...})
          if (!s->done()) which.push_back(s);
        if (!which.empty()) engine.step(which);
        return !which.empty();
      };
      engine.prefill(first);
      REQUIRE(engine.shared_rows(both) == 144);
      if (turn > 0) {
        engine.begin_prefill(both);
        while (engine.prefilling()) {
          engine.advance_prefill(turn);
          if (engine.prefilling()) step(&first);
        }
        CHECK(first.answer_size() > 3);
      } else {
        engine.prefill(both);
      }
      while (step(&first, &a, &b)) {
      }
      const std::vector<std::vector<std::int32_t>> got{first.tokens(), a.tokens(), b.tokens()};
      if (turn == 0) expected = got;
      CAPTURE(turn, run.policy);
      CHECK(got == expected);
    }
  }
}

TEST_CASE("a prefill goes on by the work that it is given, and one that is given up does no harm") {
  auto device = make_cpu_device({.poison = true});
  RunOptions run = away({.prompts = {200, 200}});
  Engine engine(*device, load_model_config(tiny_model_dir()), Safetensors::open_model(tiny_model_dir()),
                engine_options(run));
  const std::vector<std::int32_t> prompt = random_prompt(200, 1);
  Session alone(0, prompt, {}, 20, {}), given_up(1, random_prompt(200, 2), {}, 20, {}), again(1, prompt, {}, 20, {});
  Session *one = &alone, *two = &given_up, *three = &again;
  engine.begin_prefill({&one, 1});
  std::int64_t pieces = 1;
  double done = 0;
  for (PrefillProgress p = engine.advance_prefill(1); engine.prefilling(); p = engine.advance_prefill(1), ++pieces) {
    CHECK(p.done > done);
    CHECK(p.done < p.total);
    done = p.done;
  }
  CHECK(pieces == 3 * 5);  // layers, chunks of 48 tokens
  engine.begin_prefill({&two, 1});
  engine.advance_prefill(1);
  engine.step({&one, 1});
  CHECK_THROWS_AS(engine.advance_prefill(1e9, [](const PrefillProgress&) { throw 1; }), int);
  CHECK_FALSE(engine.prefilling());
  engine.step({&one, 1});
  engine.begin_prefill({&two, 1});
  engine.advance_prefill(1);
  engine.prefill(again);
  while (!again.done()) engine.step({&three, 1});
  while (!alone.done()) engine.step({&one, 1});
  CHECK(again.tokens() == alone.tokens());
}

TEST_CASE("a prefill's turn is its share of the time, and more where few decode") {
  Turns turns(0.75);
  CHECK(turns.work(1, 7) == 1);  // nothing has been measured: a chunk
  turns.prefilled(1000, 2);
  turns.stepped(0.1);
  CHECK(std::abs(turns.work(7, 7) - (1 + 150)) < 1e-9);  // three steps' time
  CHECK(std::abs(turns.work(1, 7) - (1 + 1050)) < 1e-9);
  for (int i = 0; i < 100; ++i) turns.stepped(0.2);
  CHECK(std::abs(turns.work(7, 7) - 301) < 1e-3);
  CHECK(Turns(1).work(1, 1) == std::numeric_limits<double>::infinity());
}
