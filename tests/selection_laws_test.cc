// The laws of label selection: what is predicted, prefetched and kept changes no token; selecting everything is dense.
#include "tests/support/catch.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

/// A budget small enough that a prompt of a few hundred tokens is selected from, and most rows move.
const std::vector<std::string> kSmall{"rows=48", "window=8", "label_dims=8"};

std::vector<std::string> with(std::vector<std::string> sets, const std::vector<std::string>& more) {
  sets.insert(sets.end(), more.begin(), more.end());
  return sets;
}

RunOptions offload(double cache) {
  return {.policy = "offload",
          .sets = with(kSmall, {"eager_layers=[0]"}),
          .cache = cache,
          .activations = DType::f32,
          .prompts = {300},
          .steps = 70,
          .device = {.poison = true}};
}

RunOptions sparse_resident() {
  RunOptions options = offload(0);
  options.policy = "sparse-resident";
  options.sets = kSmall;
  return options;
}

}  // namespace

TEST_CASE("law 2: selecting at least as many rows as there are equals dense, bit for bit") {
  const DType act = GENERATE(DType::bf16, DType::f32);
  RunOptions dense{.policy = "dense", .activations = act, .prompts = {1, 63, 150}, .steps = 80};
  const RunResult expected = run_tiny(dense);
  for (const char* policy : {"offload", "sparse-resident", "on-demand", "oracle", "streaming-llm", "h2o"})
    for (double cache : {0.0, 2.0}) {
      RunOptions run = dense;
      run.policy = policy;
      run.sets = {"rows=4096"};
      run.cache = cache;
      run.device.poison = true;
      CAPTURE(policy, cache, name_of(act));
      CHECK(same(run_tiny(run), expected));
    }
  // What is predicted is everything too, so no repair is missed.
  RunOptions published = dense;
  published.policy = "published-offload";
  published.sets = {"rows=4096", "eager_layers=[0]"};
  CHECK(same(run_tiny(published), expected));
}

TEST_CASE("laws 2 and 3 for rows of fewer bits") {
  const RowType type = GENERATE(RowType::int8, RowType::fp8, RowType::int4);
  const DType act = type == RowType::int8 ? DType::bf16 : DType::f32;
  CAPTURE(name_of(type));
  RunOptions dense{.policy = "dense", .activations = act, .kv_dtype = type, .prompts = {1, 63, 150}, .steps = 80};
  const RunResult all = run_tiny(dense);
  for (const char* policy : {"offload", "sparse-resident", "h2o"}) {
    RunOptions run = dense;
    run.policy = policy;
    run.sets = {"rows=4096"};
    run.cache = 1;
    run.device.poison = true;
    CAPTURE(policy);
    CHECK(same(run_tiny(run), all));
  }
  RunOptions resident = sparse_resident();
  resident.activations = act;
  resident.kv_dtype = type;
  const RunResult expected = run_tiny(resident);
  for (double cache : {0.0, 0.3, 2.0})
    for (double share : {0.0, 0.4}) {
      RunOptions moved = offload(cache);
      moved.activations = act;
      moved.kv_dtype = type;
      moved.resident = share;
      CAPTURE(cache, share);
      CHECK(same(run_tiny(moved), expected));
    }
}

TEST_CASE("a budget below the context does change the result") {
  RunOptions dense{.policy = "dense", .activations = DType::f32, .prompts = {300}, .steps = 4};
  CHECK(!same(run_tiny(sparse_resident()), run_tiny(dense)));
}

TEST_CASE("law 3: prediction, prefetch and the resident set change no token") {
  const RunResult expected = run_tiny(sparse_resident());
  for (double cache : {0.0, 0.3, 1.0, 2.0, 4.0}) {
    CAPTURE(cache);
    CHECK(same(run_tiny(offload(cache)), expected));
    RunOptions blind = offload(cache);
    blind.policy = "on-demand";
    blind.sets = kSmall;
    CHECK(same(run_tiny(blind), expected));
    RunOptions noisy = offload(cache);
    noisy.probes.noise = true;
    CHECK(same(run_tiny(noisy), expected));
    RunOptions partly = offload(cache);
    partly.resident = 0.4;
    CHECK(same(run_tiny(partly), expected));
    RunOptions away = offload(cache);
    away.streamed_layers = 3;
    away.spill_hidden = true;
    CHECK(same(run_tiny(away), expected));
    RunOptions ahead = offload(cache);
    ahead.layers_held = 2;
    CHECK(same(run_tiny(ahead), expected));
  }
}

TEST_CASE("laws 2 and 3 where the rows left out do not count, and that is another result") {
  RunOptions plain = sparse_resident();
  const RunResult with_tail = run_tiny(plain);
  plain.sets = with(kSmall, {"tail=none"});
  const RunResult expected = run_tiny(plain);
  CHECK(!same(expected, with_tail));
  for (double cache : {0.0, 1.5}) {
    RunOptions moved = offload(cache);
    moved.sets = with(moved.sets, {"tail=none"});
    CAPTURE(cache);
    CHECK(same(run_tiny(moved), expected));
  }
  const RunOptions dense{.policy = "dense", .activations = DType::f32, .prompts = {150}, .steps = 10};
  RunOptions all = dense;
  all.policy = "sparse-resident";
  all.sets = {"rows=4096", "tail=none"};
  CHECK(same(run_tiny(all), run_tiny(dense)));
}

TEST_CASE("law 3 in bf16, in a batch, with delays") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    RunOptions plain = sparse_resident();
    plain.activations = DType::bf16;
    plain.prompts = {300, 40, 170};
    const RunResult expected = run_tiny(plain);
    RunOptions moved = offload(1.5);
    moved.activations = DType::bf16;
    moved.prompts = plain.prompts;
    moved.device.delays = {{.stream = "", .microseconds = 100, .random = true}};
    moved.device.seed = seed;
    CAPTURE(seed);
    CHECK(same(run_tiny(moved), expected));
    moved.layers_held = 2;
    CHECK(same(run_tiny(moved), expected));
  }
}

TEST_CASE("dense layers among those that select stream their rows") {
  RunOptions resident = sparse_resident();
  resident.sets = with(kSmall, {"dense_layers=[1]"});
  const RunResult expected = run_tiny(resident);
  CHECK(!same(expected, run_tiny(sparse_resident())));
  RunOptions moved = offload(1);
  moved.sets = with(moved.sets, {"dense_layers=[1]"});
  CHECK(same(run_tiny(moved), expected));
}

TEST_CASE("comparison policies give the same wherever rows are") {
  for (const char* policy : {"streaming-llm", "h2o", "oracle", "published-offload"}) {
    RunOptions here = sparse_resident();
    here.policy = policy;
    here.sets = {"rows=48"};
    if (std::string(policy) == "published-offload") here.sets.push_back("eager_layers=[0]");
    here.resident = 1;
    RunOptions away = here;
    away.resident = 0;
    away.cache = 1;
    CAPTURE(policy);
    CHECK(same(run_tiny(here), run_tiny(away)));
  }
}

TEST_CASE("law 10 for selection: a batch of sessions equals single runs") {
  for (const char* policy : {"offload", "published-offload", "h2o", "streaming-llm"}) {
    RunOptions options = offload(1);
    options.policy = policy;
    options.sets = {"rows=48"};
    options.prompts = {150, 1, 64, 297, 30};
    options.together = false;
    const RunResult single = run_tiny(options);
    options.together = true;
    for (bool scattered : {false, true}) {
      options.scattered = scattered;
      CAPTURE(policy, scattered);
      CHECK(same(run_tiny(options), single));
    }
  }
}

TEST_CASE("law 7 and law 11 for selection: the plan is the use, and one host wait a step") {
  const RowType type = GENERATE(RowType::act, RowType::fp8);
  const ModelConfig config = load_model_config(tiny_model_dir(type));
  const Checkpoint weights = Safetensors::open_model(tiny_model_dir(type));
  const std::int64_t streamed = GENERATE(0, 2);
  for (const char* policy : {"offload", "published-offload", "oracle", "h2o", "sparse-resident"}) {
    RunOptions run = offload(1.25);
    run.policy = policy;
    run.kv_dtype = type;
    run.sets = {"rows=48"};
    run.streamed_layers = streamed;
    run.spill_hidden = streamed > 0;
    run.layers_held = streamed > 0 ? 2 : 1;
    const EngineOptions options = engine_options(run);
    const MemoryPlan plan = plan_memory(config, options);
    auto device = make_cpu_device({.budget = plan.device_bytes});
    Engine engine(*device, config, weights, options);
    Session session(0, random_prompt(300, 1), {}, 50, {});
    engine.prefill(session);
    const std::int64_t before = device->counters().host_waits;
    Session* one = &session;
    for (int i = 0; i < 40; ++i) engine.step({&one, 1});
    CAPTURE(policy);
    CHECK(device->counters().host_waits - before == 40);
    CHECK(device->peak_bytes() == plan.device_bytes);
    const RowCounts rows = engine.row_counts();
    CHECK(rows.attended * 300 < rows.all * 48 + rows.all);
    if (std::string(policy) == "offload") CHECK(rows.listed == rows.attended);
  }
}

TEST_CASE("what is fetched shrinks as the resident set grows") {
  std::int64_t last = std::int64_t{1} << 62;
  for (double cache : {0.0, 1.0, 2.0, 6.0}) {
    auto device = make_cpu_device();
    run_tiny(*device, offload(cache));
    const std::int64_t bytes = device->counters().h2d_bytes;
    CAPTURE(cache);
    CHECK(bytes < last);
    last = bytes;
  }
}

TEST_CASE("adopt and rewind: one prefill serves many policies and continuations") {
  const RowType type = GENERATE(RowType::act, RowType::int8, RowType::int4);
  const auto chunk = GENERATE(std::int64_t{0}, std::int64_t{256});
  RunOptions source = sparse_resident();
  source.kv_dtype = type;
  source.dual_chunks = {.rows = chunk, .reach = 320, .trained = 280};
  const ModelConfig config = model_config(source);
  const Checkpoint weights = Safetensors::open_model(model_dir(source));
  source.kv_dtype = RowType::act;
  source.policy = "dense";
  source.sets = {};
  source.probes = {.adoptable = true, .mass = true};
  auto device = make_cpu_device({.poison = true});
  Engine dense(*device, config, weights, engine_options(source));
  const std::vector<std::int32_t> prompt = random_prompt(300, 0);
  Session original(0, prompt, {}, 80, {});
  dense.prefill(original);
  for (const char* policy : {"sparse-resident", "oracle", "h2o", "streaming-llm"}) {
    RunOptions run = sparse_resident();
    run.policy = policy;
    run.sets = {"rows=48"};
    run.resident = 1;
    run.kv_dtype = type;
    run.dual_chunks = source.dual_chunks;
    const RunResult expected = run_tiny(run);
    Engine engine(*device, config, weights, engine_options(run));
    Session session(0, prompt, {}, 80, {});
    engine.adopt(session, dense, original);
    Session* one = &session;
    for (int round = 0; round < 2; ++round) {
      for (int i = 0; i < 70; ++i) engine.step({&one, 1});
      CAPTURE(policy, round, name_of(type), chunk);
      CHECK(session.tokens() == expected.tokens[0]);
      engine.rewind(session, 300, expected.tokens[0][300]);
    }
  }
}
