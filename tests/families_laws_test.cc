// The laws on models that have what the tiny one has not: windowed layers (all, or some), experts, layers without RoPE,
// normalised heads, biases.
#include <algorithm>

#include "kernels/base/bytes.h"
#include "tests/support/catch.h"
#include "tests/support/families.h"
#include "tests/support/mutations.h"
#include "tests/support/sanitizer.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

RunOptions run_of(const std::string& name, std::vector<std::int64_t> prompts, std::int64_t steps) {
  RunOptions run{.model = family_dir(name)};
  run.prompts = std::move(prompts);
  run.steps = steps;
  run.device.poison = true;
  return run;
}

}  // namespace

TEST_CASE("law 1 for families: placement changes no bit") {
  const std::string name = GENERATE("mistral_window", "qwen2_window", "mixtral", "qwen3_moe", "smollm3");
  const RowType type = GENERATE(RowType::act, RowType::int8);
  CAPTURE(name, name_of(type));
  RunOptions run = run_of(name, {1, 64, 150}, 70);
  run.kv_dtype = type;
  run.policy = "dense";
  const RunResult expected = run_tiny(run);
  run.policy = "stream";
  for (double resident : {0.0, 0.4, 1.0}) {
    run.resident = resident;
    CAPTURE(resident);
    CHECK(same(run_tiny(run), expected));
    CHECK(same(run_tiny(away(run)), expected));
  }
}

TEST_CASE("laws 2 and 3 for families: selecting all rows is dense, and look-ahead changes no token") {
  const std::string name = GENERATE("mistral_window", "qwen2_window", "mixtral", "smollm3");
  CAPTURE(name);
  RunOptions run = run_of(name, {300, 90}, 20);
  run.policy = "dense";
  const RunResult dense = run_tiny(run);
  run.policy = "offload";
  run.sets = {"rows=400", "tail=none"};
  CHECK(same(run_tiny(run), dense));
  run.sets = {"rows=48", "window=8", "label_dims=8", "eager_layers=[0]"};
  run.policy = "sparse-resident";
  RunOptions resident = run;
  std::erase_if(resident.sets, [](const std::string& set) { return set.starts_with("eager"); });
  const RunResult expected = run_tiny(resident);
  CHECK((name == "mistral_window") == same(expected, dense));  // where every layer is windowed nothing is selected
  run.policy = "offload";
  for (double cache : {0.0, 1.0}) {
    run.cache = cache;
    CHECK(same(run_tiny(run), expected));
  }
}

TEST_CASE("law 5 for families: random delays change no token") {
  const std::string name = GENERATE("qwen2_window", "mixtral");
  const RunOptions plain = run_of(name, {120, 70}, 20);
  const RunResult expected = run_tiny(plain);
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    RunOptions delayed = away(plain);
    delayed.device = {.delays = {{.stream = "", .microseconds = 200, .random = true}}, .poison = true, .seed = seed};
    CAPTURE(name, seed);
    CHECK(same(run_tiny(delayed), expected));
  }
}

TEST_CASE("law 6 for windowed layers: the first step waits for the window to be in place") {
  const Mutations mutations({run_of("mistral_window", {40}, 2)}, {{.stream = "store", .microseconds = 20000}});
  CHECK(mutations.all_right(""));
  CHECK_FALSE(mutations.all_right("prefill_stored"));
}

TEST_CASE("law 7 for families: the plan is the use, byte for byte") {
  const std::string name =
      GENERATE("mistral_window", "qwen2_window", "mixtral", "qwen3_moe", "smollm3", "seed_oss", "phi3_longrope");
  const std::string policy = GENERATE("stream", "offload");
  CAPTURE(name, policy);
  RunOptions run = run_of(name, {200}, 8);
  run.policy = policy;
  for (const RunOptions& one : {run, away(run)}) {
    const EngineOptions options = engine_options(one);
    const MemoryPlan plan = plan_memory(load_model_config(family_dir(name)), options);
    auto device = make_cpu_device({.budget = plan.device_bytes});  // not a byte more
    run_tiny(*device, one);
    CHECK(device->peak_bytes() == plan.device_bytes);
  }
}

TEST_CASE("a windowed layer keeps its window on the device, and nothing on the host, whatever the context") {
  const ModelConfig config = load_model_config(family_dir("qwen2_window"));
  auto bytes = [&](const std::vector<Arena::Item>& items, const char* name) {
    const auto item = std::ranges::find(items, name, &Arena::Item::name);
    return item == items.end() ? 0 : item->bytes;
  };
  for (std::int64_t tokens : {64, 200, 4000}) {
    RunOptions run = run_of("qwen2_window", {tokens}, 1);
    const EngineOptions options = engine_options(run);
    const MemoryPlan plan = plan_memory(config, options);
    const std::int64_t row = config.kv_heads * config.head_dim * 4;
    CHECK(bytes(plan.device, "kv windowed layers") == 2 * kAttendBlock * row);
    CHECK(bytes(plan.host, "kv host store") == round_up(options.max_len, kAttendBlock) * row);
  }
  // A window that no session outgrows is none.
  RunOptions shorter = run_of("qwen2_window", {20}, 1);
  CHECK(kv_shape(config, engine_options(shorter)).window == 0);
  // Where every layer has one, nothing leaves the device.
  const MemoryPlan all =
      plan_memory(load_model_config(family_dir("mistral_window")), engine_options(run_of("mistral_window", {4000}, 1)));
  CHECK(bytes(all.host, "kv host store") == 0);
}

TEST_CASE("law 9 for families: prefill of n + 1 tokens equals prefill of n and a decode step") {
  const std::string name = GENERATE("mistral_window", "qwen2_window", "mixtral", "smollm3");
  for (std::int64_t n : {47, 48, 64, 129}) {
    CAPTURE(name, n);
    RunOptions run = run_of(name, {n}, 1);
    run.activations = DType::f32;
    const RunResult stepped = run_tiny(run);
    auto device = make_cpu_device();
    const ModelConfig config = load_model_config(run.model);
    Engine engine(*device, config, Safetensors::open_model(run.model), engine_options(run));
    const std::vector<std::int32_t> longer(stepped.tokens[0].begin(), stepped.tokens[0].begin() + n + 1);
    Session session(0, longer, {}, 1, {});
    std::vector<float> logits;
    engine.set_logits_tap([&](std::int64_t rows, const float* values) {
      logits.assign(values + (rows - 1) * config.vocab, values + rows * config.vocab);
    });
    engine.prefill(session);
    double error = 0, reference = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double want = logits[i], d = stepped.logits[0][logits.size() + i] - want;
      error += d * d, reference += want * want;
    }
    CHECK(error / reference <= 1e-10);
  }
}

TEST_CASE("law 10 for families: a batch equals single runs, bit for bit, whichever slots they have") {
  const std::string name = GENERATE("mistral_window", "qwen2_window", "mixtral", "qwen3_moe", "smollm3");
  const std::string policy = GENERATE("stream", "offload");
  CAPTURE(name, policy);
  RunOptions run = run_of(name, {90, 30, 200}, 40);
  run.policy = policy;
  if (policy == "offload") run.sets = {"rows=48", "window=8", "label_dims=8"};
  const RunResult together = run_tiny(run);
  run.scattered = true;
  CHECK(same(run_tiny(run), together));
  run.together = false;
  CHECK(same(run_tiny(run), together));
}

TEST_CASE("adopt and rewind with windowed layers") {
  const auto dir = family_dir("qwen2_window");
  const ModelConfig config = load_model_config(dir);
  const Checkpoint weights = Safetensors::open_model(dir);
  RunOptions run = run_of("qwen2_window", {150}, 100);
  run.policy = "dense";
  EngineOptions options = engine_options(run);
  options.probes.rewinds = options.probes.adoptable = true;
  auto device = make_cpu_device(run.device);
  Engine first(*device, config, weights, options), second(*device, config, weights, options);
  Session source(0, random_prompt(150, 3), {}, 100, {}), session(0, random_prompt(150, 3), {}, 100, {});
  first.prefill(source);
  second.adopt(session, first, source);
  auto answer = [](Engine& engine, Session& of) {
    Session* one = &of;
    while (of.answer_size() < 99) engine.step({&one, 1});
    return of.tokens();
  };
  const std::int32_t next = source.tokens()[150];
  const auto tokens = answer(first, source);
  CHECK(answer(second, session) == tokens);
  second.rewind(session, 150, next);
  CHECK(answer(second, session) == tokens);
}

TEST_CASE("law 6 for adopting: the other engine's rows are waited for, and without that the answer is another") {
  const auto dir = family_dir("qwen2_window");
  RunOptions run = run_of("qwen2_window", {150}, 20);
  run.policy = "dense";
  run.device.delays = {{.stream = "store", .microseconds = 5000}};
  EngineOptions options = engine_options(run);
  options.probes.rewinds = options.probes.adoptable = true;
  const auto agree = [&](std::string_view drop) {
    run.device.drop_wait = drop;
    auto device = make_cpu_device(run.device);
    const ModelConfig config = load_model_config(dir);
    const Checkpoint weights = Safetensors::open_model(dir);
    Engine first(*device, config, weights, options), second(*device, config, weights, options);
    Session source(0, random_prompt(150, 3), {}, 20, {}), adopted(0, random_prompt(150, 3), {}, 20, {});
    first.prefill(source);
    second.adopt(adopted, first, source);
    for (auto [engine, session] : {std::pair{&first, &source}, {&second, &adopted}})
      while (session->answer_size() < 19) engine->step({&session, 1});
    return source.tokens() == adopted.tokens();
  };
  CHECK(agree(""));
  if (kThreadSanitizer) return;  // a dropped wait is the very race that it reports
  bool right = false;
  try {
    right = agree("rows_adopted");
  } catch (const std::exception&) {  // a poisoned read became a token that ends a session
  }
  CHECK(!right);
}
